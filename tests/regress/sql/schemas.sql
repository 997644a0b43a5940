-- Schemas of event types, and upcasters.
create extension pg_outbox;
create role outbox_regress_app;
select outbox.grant_to('outbox_regress_app', 'consume');
-- Versions begin at 1 and have no gap.
select outbox.register_schema('order.placed', '{"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}');
select outbox.register_schema('order.placed', '{"required": ["amount"], "type": "object", "properties": {"amount": {"type": "integer"}}}', 1);
select outbox.register_schema('order.placed', '{"type": "object"}', 1);
select outbox.register_schema('order.placed', '{"type": "object"}', 3);
-- A new version is compared with the one before.
select outbox.register_schema('order.placed', '{"type": "object", "properties": {"amount": {"type": "string"}}, "required": ["amount"]}');
select outbox.register_schema('order.placed',
    '{"type": "object", "properties": {"amount": {"type": "integer"}, "currency": {"type": "string"}}, "required": ["amount", "currency"]}');
select outbox.register_schema('order.placed',
    '{"type": "object", "properties": {"amount": {"type": "number"}, "currency": {"type": "string"}}, "required": ["amount"]}',
    description => 'with the currency');
select outbox.register_schema('order.placed',
    '{"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}', compatibility => 'breaking');
select type, version, compatibility, validated, description from outbox.event_schema order by version;
select compatibility, reasons from outbox.compare_schemas('order.placed', 1, 2);
select compatibility, cardinality(reasons) as reasons from outbox.compare_schemas('order.placed', 2, 3);
select (outbox.get_schema('order.placed')).version as latest, (outbox.get_schema('order.placed', 1)).schema -> 'required' as required;
select outbox.get_schema('order.placed', 4);
select outbox.get_schema('order.paid');
-- Data.
select outbox.validate_event('order.placed', '{"total": 7.5}');
select outbox.validate_event('order.placed', '{"total": "card 4711"}');
select outbox.validate_event('order.placed', '{"amount": 1}', 1);
select outbox.validate_event('order.placed', null, 1);
-- Documents that are no schemas.
select outbox.register_schema('order.paid', '{"type": "colour"}');
select outbox.register_schema('order.paid', '{"$ref": "https://example.com/a.json"}');
select outbox.register_schema('order paid', '{}');
select outbox.register_schema(null, '{}');
select outbox.register_schema('order.paid', '{}', compatibility => 'some');
select outbox.register_schema('order.paid', jsonb_build_object('description', repeat('x', 70000)));

-- Upcasters: a chain without a gap.
create schema app;
create function app.placed_2(data jsonb) returns jsonb language sql immutable as $$ select data || '{"currency": "EUR"}' $$;
create function app.placed_3(data jsonb) returns jsonb language sql immutable
as $$ select jsonb_build_object('total', data -> 'amount', 'ran_as', current_user) $$;
create function app.volatile(data jsonb) returns jsonb language sql as $$ select data $$;
create function app.other(data text) returns jsonb language sql immutable as $$ select '{}'::jsonb $$;
create function app.nothing(data jsonb) returns jsonb language sql immutable as $$ select null::jsonb $$;
select outbox.create_upcaster('order.placed', 2, 'app.placed_3(jsonb)');
select outbox.create_upcaster('order.placed', 4, 'app.placed_3(jsonb)');
select outbox.upcast('order.placed', '{"amount": 7}', 1);
select outbox.create_upcaster('order.placed', 1, 'app.placed_2(jsonb)');
select outbox.create_upcaster('order.placed', 3, 'app.volatile(jsonb)');
select outbox.create_upcaster('order.placed', 3, 'app.other(text)');
select outbox.create_upcaster('order.placed', 3, 'app.missing(jsonb)');
select outbox.create_upcaster('order.placed', 0, 'app.placed_2(jsonb)');
select outbox.create_upcaster('order.placed', 3, null);
select outbox.upcast('order.placed', '{"amount": 7}', to_version => 2), outbox.upcast('order.placed', '{"amount": 7}', 2) ->> 'total' as total,
    outbox.upcast('order.placed', '{"total": 7}', 3), outbox.upcast('unknown.type', '{"a": 1}');
select outbox.upcast('order.placed', '{"amount": 7}', to_version => 4);
select outbox.upcast('order.placed', '{"amount": 7}', 3, 1);
-- Stored events are turned into the latest version on request, and their metadata say so.
select outbox.append('placed-1', 'order.placed', '{"amount": 7}'),
    outbox.append('placed-1', 'order.placed', '{"amount": 8}', metadata => '{"schema_version": "2", "user_id": "u"}'),
    outbox.append('placed-1', 'other.type', '{"amount": 9}'),
    outbox.append_bytes('placed-1', '{order.placed}', '{x}') is not null;
select outbox.tick() > 0 as ticked;
select version, data, metadata from outbox.load('placed-1');
select version, data, metadata from outbox.load('placed-1', upcast => true);
select version, data from outbox.load('placed-1', max_events => 2, backwards => true, upcast => true);
select version, data from outbox.read_events(0, upcast => true) where stream = 'placed-1';
-- An event whose version is malformed is named.
select outbox.append('placed-' || i, 'order.placed', '{"amount": 7}', metadata => jsonb_build_object('schema_version', v))
from unnest(array['"x"', '0', '-1', '1.5', 'true', '1e400', '"00001"']::jsonb[]) with ordinality u(v, i);
select version, data from outbox.load('placed-1', upcast => true) where version > 4;
select version, data from outbox.load('placed-2', upcast => true);
select version, data from outbox.load('placed-3', upcast => true);
select version, data from outbox.load('placed-4', upcast => true);
select version, data from outbox.load('placed-5', upcast => true);
select version, data from outbox.load('placed-6', upcast => true);
select version, data from outbox.load('placed-7', upcast => true);
-- An upcaster runs as its owner.
create role outbox_regress_owner;
alter function app.placed_3(jsonb) owner to outbox_regress_owner;
set role outbox_regress_app;
select outbox.upcast('order.placed', '{"amount": 7}');
reset role;
grant usage on schema app to outbox_regress_owner;
select outbox.create_upcaster('order.placed', 2, 'app.placed_3(jsonb)');
set role outbox_regress_app;
select outbox.upcast('order.placed', '{"amount": 7}');
reset role;
select outbox.create_upcaster('order.placed', 3, 'app.nothing(jsonb)');
select outbox.upcast('order.placed', '{"total": 7}', 3);
select outbox.upcast('order.placed', '{"total": 7}', 2147483647);
select outbox.drop_upcaster('order.placed', 2);
select outbox.drop_upcaster('order.placed', 3), outbox.drop_upcaster('order.placed', 1);
select outbox.drop_upcaster('order.placed', 1);
select type, from_version, function, owner from outbox.upcaster;
-- An admin who has no rights of the function's owner.
select outbox.grant_to('outbox_regress_app', 'admin');
set role outbox_regress_app;
select outbox.create_upcaster('order.placed', 1, 'app.placed_2(jsonb)');
reset role;
drop owned by outbox_regress_app, outbox_regress_owner;
drop role outbox_regress_app, outbox_regress_owner;
