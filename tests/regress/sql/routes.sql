-- Endpoints and subscriptions: stored values, and refused arguments.
create extension pg_outbox;
\pset null '(null)'
select endpoint_id, signing_secret ~ '^whsec_[A-Za-z0-9+/]{43}=$' as secret, message_id
from outbox.create_endpoint('shop', 'https://example.com/hooks?a=1', headers => '{"x-tier": "gold"}');
select signing_secret from outbox.create_endpoint('given', 'https://example.com',
    secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
select outbox.subscribe('orders', '{order.#,payment.*}', 'shop', filter => '{"tenant": "acme", "key": "order-*"}');
select outbox.subscribe('again', '{#}', 'shop', max_attempts => 0);
select name, url, timeout, concurrency, active from outbox.endpoint order by id;
select s.name, s.max_attempts, v.version, v.control_message_id, v.position, v.active, v.topics, v.filter
from outbox.subscription s join outbox.subscription_version v on v.subscription_id = s.id order by s.id;

-- A change takes effect at the position of its control message.
select status, first_position, last_position from outbox_internal.tick_inline(100);
select outbox.unsubscribe('orders');
select status, first_position, last_position from outbox_internal.tick_inline(100);
select s.name, s.deleted_at is not null as deleted, v.version, v.position, v.active
from outbox.subscription s join outbox.subscription_version v on v.subscription_id = s.id order by s.id, v.version;
select topic, payload from outbox.message order by id;
select outbox.subscribe('orders', '{order.new}', 'shop');

-- Bad input.
select outbox.create_endpoint(null, 'https://example.com');
select outbox.create_endpoint('', 'https://example.com');
select outbox.create_endpoint(E'a\nb', 'https://example.com');
select outbox.create_endpoint('shop', 'https://example.com');
select outbox.create_endpoint('x', null);
select outbox.create_endpoint('x', 'example.com');
select outbox.create_endpoint('x', 'ftp://example.com');
select outbox.create_endpoint('x', 'https://user:hunter2@example.com');
select outbox.create_endpoint('x', 'https://example.com', secret => 'hunter2');
select outbox.create_endpoint('x', 'https://example.com', secret => 'whsec_aHVudGVyMg==');
select outbox.create_endpoint('x', 'https://example.com', headers => '{"webhook-id": "1"}');
select outbox.create_endpoint('x', 'https://example.com', timeout => '0 s');
select outbox.create_endpoint('x', 'https://example.com', timeout => '2 min');
select outbox.create_endpoint('x', 'https://example.com', concurrency => 0);
select outbox.create_endpoint('x', 'https://example.com', kind => 'kafka');
select outbox.subscribe('x', '{#}', 'nowhere');
select outbox.subscribe('again', '{#}', 'shop');
select outbox.subscribe('x', '{}', 'shop');
select outbox.subscribe('x', null, 'shop');
select outbox.subscribe('x', '{a*}', 'shop');
select outbox.subscribe('x', '{a..b}', 'shop');
select outbox.subscribe('x', '{#}', 'shop', filter => '{"colour": "red"}');
select outbox.subscribe('x', '{#}', 'shop', filter => '[]');
select outbox.unsubscribe('nowhere');
select outbox.history(4711);
select count(*) from outbox.subscription where name = 'x';
