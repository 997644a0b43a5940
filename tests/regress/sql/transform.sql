-- Transforms of subscriptions: what is refused, what is shown, and what is set back.
create extension pg_outbox;
create schema app;
create function app.part(message outbox.feed_message) returns jsonb language sql immutable return message.payload - 'secret';
create function app.other(message outbox.feed_message) returns jsonb language sql stable return null::jsonb;
create function app.free(message outbox.feed_message) returns jsonb language sql volatile return null::jsonb;
create function app.texts(message outbox.feed_message) returns text language sql immutable return '';
create function app.sets(message outbox.feed_message) returns setof jsonb language sql immutable as 'select null::jsonb';
create function app.payload(payload jsonb) returns jsonb language sql immutable return payload;
-- Refused functions.
select outbox.subscribe('s', '{#}', transform => 'app.missing(outbox.feed_message)');
select outbox.subscribe('s', '{#}', transform => 'app.part');
select outbox.subscribe('s', '{#}', transform => '');
select outbox.subscribe('s', '{#}', transform => repeat('x', 300));
select outbox.subscribe('s', '{#}', transform => 'app.free(outbox.feed_message)');
select outbox.subscribe('s', '{#}', transform => 'app.texts(outbox.feed_message)');
select outbox.subscribe('s', '{#}', transform => 'app.sets(outbox.feed_message)');
select outbox.subscribe('s', '{#}', transform => 'app.payload(jsonb)');
select count(*) from outbox.subscription;
-- A name without a schema is not looked up in the caller's path.
set search_path = app, public;
select outbox.subscribe('s', '{#}', transform => 'part(outbox.feed_message)');
reset search_path;
-- The function is stored by its signature, and shown.
select outbox.subscribe('s', '{#}', transform => 'app . part ( outbox.feed_message )') is not null;
select name, transform from outbox.subscription_status;
select transform, transform_owner = current_user as own from outbox.subscription;
-- It stays until it is changed or reset.
select outbox.alter_subscription('s', max_attempts => 3) is not null;
select transform from outbox.subscription;
select outbox.alter_subscription('s', transform => 'app.other(outbox.feed_message)') is not null;
select transform from outbox.subscription;
select outbox.alter_subscription('s', transform => 'app.free(outbox.feed_message)');
select outbox.ensure_subscription('s', '{#}');
select outbox.ensure_subscription('s', '{#}', transform => 'app.other(outbox.feed_message)');
select outbox.ensure_subscription('s', '{#}', transform => 'app.part(outbox.feed_message)');
select outbox.ensure_subscription('s', '{#}', transform => 'app.missing(outbox.feed_message)');
select transform from outbox.subscription;
select outbox.alter_subscription('s', reset => '{transform}') is not null;
select transform, transform_owner from outbox.subscription;
select outbox.alter_subscription('s', reset => '{topics}');
-- A subscription that is taken up again has the transform that is given.
select outbox.alter_subscription('s', transform => 'app.part(outbox.feed_message)') is not null;
select outbox.unsubscribe('s') is not null;
select outbox.subscribe('s', '{#}') is not null;
select transform from outbox.subscription;
-- The functions of the extension that call transforms are private.
select has_function_privilege('pg_monitor', 'outbox_internal.call_transform(oid, outbox.feed_message, timestamptz)', 'execute');
