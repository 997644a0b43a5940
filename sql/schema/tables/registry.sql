-- Registered topics and publishers. Registration is optional: messages of a topic that is not registered are accepted unless
-- pg_outbox.require_topic is on, and those of a publisher unless pg_outbox.require_publisher is on.

-- API: public
create table outbox.topic (
    code text primary key,
    active boolean not null default true,
    name text not null,
    description text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp()
);
comment on table outbox.topic is 'Registered topics; messages of an inactive one are refused';
comment on column outbox.topic.code is 'topic that is passed to enqueue(), before a topic function or template is applied';
comment on column outbox.topic.active is 'false: enqueue() raises OB007; messages that were accepted before are delivered';
comment on column outbox.topic.name is 'display name';
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
comment on table outbox.publisher is 'Registered publishers; an inactive one may not enqueue';
comment on column outbox.publisher.code is 'name of the publisher: the part before the @ of "name@version"';
comment on column outbox.publisher.topic_template is
    'topic that its messages go to, with {tenant} and {topic} replaced by those of the message';
comment on column outbox.publisher.topic_function is
    'signature of a function (tenant text, topic text) returns text that returns the topic; takes precedence over the '
    'template';
comment on column outbox.publisher.topic_function_owner is
    'owner of the function when it was set here; if the owner is another one now, the function is not called';
select pg_catalog.pg_extension_config_dump('outbox.publisher', '');

-- API: private
-- Every backend keeps both tables in memory. This trigger invalidates those copies if and when the change commits.
create function outbox_internal.registry_changed() returns trigger language c volatile as 'MODULE_PATHNAME', 'outbox_registry_changed';
create trigger registry_changed after insert or update or delete or truncate on outbox.topic
    for each statement execute function outbox_internal.registry_changed();
alter table outbox.topic enable always trigger registry_changed;
create trigger registry_changed after insert or update or delete or truncate on outbox.publisher
    for each statement execute function outbox_internal.registry_changed();
alter table outbox.publisher enable always trigger registry_changed;

insert into outbox._capability values
    ('monitor', 'table outbox.topic'),
    ('monitor', 'table outbox.publisher');
