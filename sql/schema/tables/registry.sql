-- Topics and publishers that are known by name. Registering is optional: a topic that is not listed can be published to
-- unless pg_outbox.require_topic says otherwise, and so for publishers.

-- API: public
create table outbox.topic (
    code text primary key,
    active boolean not null default true,
    name text not null,
    description text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp()
);
comment on table outbox.topic is 'Registered topics; an inactive one refuses messages';
comment on column outbox.topic.code is 'what is passed to enqueue(), before a topic function or template is applied';
comment on column outbox.topic.active is 'false: enqueue() raises OB007; what was accepted before is delivered';
comment on column outbox.topic.name is 'for people';
select pg_catalog.pg_extension_config_dump('outbox.topic', '');

-- API: public
create table outbox.publisher (
    code text primary key,
    active boolean not null default true,
    topic_template text,
    topic_function text,
    topic_function_owner text,
    name text not null,
    description text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp()
);
comment on table outbox.publisher is 'Registered producers; an inactive one may not enqueue';
comment on column outbox.publisher.code is 'what stands before the @ of a publisher "name@version"';
comment on column outbox.publisher.topic_template is 'its messages go to this topic: {tenant} and {topic} stand for the message''s';
comment on column outbox.publisher.topic_function is
    'signature of a function (tenant text, topic text) returns text that gives the topic; goes before the template';
comment on column outbox.publisher.topic_function_owner is
    'owner of the function when it was named; with another one it is not called';
select pg_catalog.pg_extension_config_dump('outbox.publisher', '');

-- API: private
-- Every backend keeps both tables in memory. This invalidates what they hold, when and only when the change commits.
create function outbox._registry_changed() returns trigger language c volatile as 'MODULE_PATHNAME', 'outbox_registry_changed';
create trigger registry_changed after insert or update or delete or truncate on outbox.topic
    for each statement execute function outbox._registry_changed();
alter table outbox.topic enable always trigger registry_changed;
create trigger registry_changed after insert or update or delete or truncate on outbox.publisher
    for each statement execute function outbox._registry_changed();
alter table outbox.publisher enable always trigger registry_changed;

insert into outbox._capability values
    ('monitor', 'table outbox.topic'),
    ('monitor', 'table outbox.publisher');
