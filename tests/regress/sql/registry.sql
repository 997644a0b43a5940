-- Topics and publishers that are registered, switched off, or required. Topics that depend on the tenant.
create extension pg_outbox;
select outbox.create_topic('order.created', description => 'An order was placed');
select outbox.create_publisher('billing', 'Billing service');
select code, name, description, active from outbox.topic;
select code, name, active from outbox.publisher;

-- An inactive topic refuses messages. Other topics are not affected.
select outbox.enqueue('order.created', '{}') is not null as accepted;
select outbox.alter_topic('order.created', active => false);
select outbox.enqueue('order.created', '{}');
select outbox.enqueue_many('order.created', '{"{}"}');
select outbox.enqueue('order.created.v2', '{}') is not null as accepted;
begin;
select outbox.alter_topic('order.created', active => true);
select outbox.enqueue('order.created', '{}') is not null as accepted;
rollback;
select outbox.enqueue('order.created', '{}');
select outbox.alter_topic('order.created', active => true);
select outbox.enqueue('order.created', '{}') is not null as accepted;

-- The code of a publisher is the part before the @.
select outbox.enqueue('a', '{}', publisher => 'billing@1.2.3') is not null as accepted;
select outbox.alter_publisher('billing', active => false);
select outbox.enqueue('a', '{}', publisher => 'billing@1.2.3');
set pg_outbox.publisher = 'billing';
select outbox.enqueue('a', '{}');
reset pg_outbox.publisher;
select outbox.alter_publisher('billing', active => true);

-- Registration can be required.
set pg_outbox.require_topic = on;
select outbox.enqueue('unknown', '{}');
select outbox.enqueue('order.created', '{}') is not null as accepted;
reset pg_outbox.require_topic;
set pg_outbox.require_publisher = on;
select outbox.enqueue('a', '{}');
select outbox.enqueue('a', '{}', publisher => 'unknown');
select outbox.enqueue('a', '{}', publisher => 'billing') is not null as accepted;
reset pg_outbox.require_publisher;

-- A template or function of the publisher precedes that of the database, and a function precedes a template.
create function public.topic_of(tenant text, topic text) returns text language sql
    return case when tenant = 'bad' then 1 / (length(tenant) - 3) || '' else 'fn.' || tenant || '.' || topic end;
set pg_outbox.topic_template = '{tenant}.{topic}';
select outbox.enqueue('t.shared', '{}', tenant => 'acme') is not null as accepted;
select outbox.enqueue('t.no_tenant', '{}') is not null as accepted;
select outbox.alter_publisher('billing', topic_template => 'billing.{tenant}.{topic}');
select outbox.enqueue('t.own', '{}', tenant => 'acme', publisher => 'billing@2') is not null as accepted;
select outbox.alter_publisher('billing', topic_function => 'public.topic_of(text, text)');
select outbox.enqueue('t.function', '{}', tenant => 'acme', publisher => 'billing@2') is not null as accepted;
select outbox.enqueue('t.function', '{}', tenant => 'bad', publisher => 'billing@2');
select outbox.enqueue('t.function', '{}', publisher => 'billing@2');
select outbox.enqueue('t.function', '{}', tenant => 'two words', publisher => 'billing@2');
select topic_template, topic_function from outbox.publisher;
alter function public.topic_of rename to topic_for;
select outbox.enqueue('t.function', '{}', tenant => 'acme', publisher => 'billing@2');
select outbox.alter_publisher('billing', topic_template => '', topic_function => '');
reset pg_outbox.topic_template;
set pg_outbox.topic_function = 'public.topic_for(text, text)';
select outbox.enqueue('t.database', '{}', tenant => 'acme', publisher => 'billing@2') is not null as accepted;
reset pg_outbox.topic_function;
select topic from outbox.message where topic like '%t.%' order by id;

-- Bad input.
select outbox.create_topic('order.created');
select outbox.create_topic('order.*');
select outbox.create_topic('outbox.own');
select outbox.create_topic(null);
select outbox.alter_topic('nowhere', active => true);
select outbox.create_publisher('billing');
select outbox.create_publisher('billing@1');
select outbox.create_publisher('x', topic_template => '{tenant}');
select outbox.create_publisher('x', topic_function => 'public.nothing(text, text)');
select outbox.create_publisher('x', topic_function => 'pg_catalog.length(text)');
select outbox.alter_publisher('nobody', active => true);

-- Notifications and events.
\x on
select outbox.enqueue_notification('acme', 'finding.created', 'A finding', 'Somewhere', 'CRITICAL', 'https://example.com/1',
    'finding', 'f-1', '{"scanner": "x"}', 5) is not null as accepted;
select topic, key, tenant, aggregate_type, aggregate_id, headers, metadata, payload, max_attempts
from outbox.message order by id desc limit 1;
select outbox.enqueue_event('acme', 'lead.created.v2', '{"lead": 1}', 'lead', 'l-1', correlation_id => 'c-1',
    pii_fields => '{email}', consent => '{"marketing": false}', producer => 'crm@1.2.3',
    occurred_at => '2026-01-02 03:04:05+00') is not null as accepted;
select topic, key, tenant, aggregate_type, aggregate_id, headers, metadata, payload, publisher, occurred_at = '2026-01-02 03:04:05+00' as at
from outbox.message order by id desc limit 1;
\x off
select outbox.enqueue_notification('acme', 'x', 'A title', severity => 'urgent');
select outbox.enqueue_notification('acme', 'x', '');
select outbox.enqueue_event('acme', 'x', '{}', event_version => 0);
select outbox.enqueue_event('acme', 'x', '{}', metadata => '[]');
