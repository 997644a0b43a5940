-- Endpoints and subscriptions are altered field by field, by the same rules that hold for their creation.
create extension pg_outbox;
\pset null '(null)'
select endpoint_id from outbox.create_endpoint('shop', 'https://example.com/a', subscriber_type => 'service');
select endpoint_id from outbox.create_endpoint('other', 'https://example.com/b');
select outbox.subscribe('orders', '{order.#}', 'shop') is not null as message;

-- An endpoint: all settings at once, then a single setting, then the values that remove a setting.
select outbox.alter_endpoint('shop', url => 'https://example.com/c', headers => '{"x-a": "1"}', timeout => '3 s',
    concurrency => 2, tenant => 'acme', rate => 10, burst => 5, schedule => '[1, 2]', policy => '{"404": "retry"}',
    breaker => '{"failures": 3}', protocol => 'http1', compress => true, response_id => 'x-id', keep_headers => '{x-a}',
    disable_after => '1 day', disable_failures => 7, subscriber_type => 'client', new_name => 'store') is not null as message;
\x on
select name, url, headers, timeout, concurrency, tenant, rate, burst, schedule, policy, breaker, protocol, compress, response_id,
    keep_headers, disable_after, disable_failures, subscriber_type
from outbox.endpoint where id = 1;
\x off
select outbox.alter_endpoint('store', subscriber_type => 'service', rate => 0, burst => 0, schedule => 'null', policy => 'null',
    breaker => 'null', tenant => '', response_id => '', new_name => 'shop') is not null as message;
select name, subscriber_type, rate, burst, schedule, policy, breaker, tenant, response_id, timeout from outbox.endpoint where id = 1;
select outbox.alter_endpoint('shop', subscriber_type => 'nobody');
select endpoint_id from outbox.create_endpoint('third', 'https://example.com', subscriber_type => null);
select outbox.alter_endpoint('shop', timeout => '0 s');
select outbox.alter_endpoint('shop', new_name => 'other');
select outbox.alter_endpoint('nobody', timeout => '1 s');

-- A subscription.
select outbox.alter_subscription('orders', topics => '{order.*,refund.#}', filter => '{"tenant": "acme"}', endpoint => 'other',
    max_attempts => 3, max_age => '1 h', schedule => '{"delays": [1, 5]}', policy => '{"404": "retry"}',
    format => 'cloudevents', batch_size => 50, batch_wait => '20 ms', ordering => 'key', on_exhausted => 'block',
    ttl => '2 h', deadline => '5 min', notify => false, max_lag => '1 day', external_id => 'x-17',
    labels => '{"team": "shop"}') is not null as message;
\x on
select s.*, v.version, v.topics, v.filter
from (select name, endpoint_id, max_attempts, max_age, schedule, policy, format, batch_size, batch_wait, ordering, on_exhausted,
        ttl, deadline, notify, max_lag, external_id, labels, id from outbox.subscription) s
join outbox.subscription_version v on v.subscription_id = s.id order by v.version desc limit 1;
\x off
-- Settings that are not named stay as they are.
select outbox.alter_subscription('orders', batch_size => 1, reset => '{max_age,schedule,policy,ttl,deadline,filter}') is not null as message;
select format, batch_size, batch_wait, ordering, max_age, schedule, policy, ttl, deadline from outbox.subscription;
-- Invalid settings are refused and change nothing.
select outbox.alter_subscription('orders', format => 'xml');
select outbox.alter_subscription('orders', batch_size => 0);
select outbox.alter_subscription('orders', batch_size => 1001);
select outbox.alter_subscription('orders', batch_wait => '-1 s');
select outbox.alter_subscription('orders', batch_wait => '2 min');
select outbox.alter_subscription('orders', ordering => 'random');
select outbox.alter_subscription('orders', on_exhausted => 'panic');
select outbox.alter_subscription('orders', ttl => '0');
select outbox.alter_subscription('orders', deadline => '-1 s');
select outbox.alter_subscription('orders', max_age => '0');
select outbox.alter_subscription('orders', max_lag => '0');
select outbox.alter_subscription('orders', labels => '[]');
select outbox.alter_subscription('orders', schedule => '{"delays": []}');
select outbox.alter_subscription('orders', policy => '{"404": "shrug"}');
select outbox.alter_subscription('orders', filter => '{"colour": "red"}');
select outbox.alter_subscription('orders', topics => '{order..x}');
select outbox.alter_subscription('orders', endpoint => 'nobody');
select outbox.alter_subscription('orders', external_id => repeat('x', 256));
select outbox.subscribe('bad', '{#}', 'shop', format => 'xml');
select outbox.subscribe('bad', '{#}', 'shop', batch_size => null);
select outbox.subscribe('bad', '{#}', 'shop', ordering => null);
select format, batch_size, ordering, on_exhausted from outbox.subscription;
