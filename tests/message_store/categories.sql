-- Reading a category: positions, batches, correlation, consumer groups, conditions.
select write_message(('30000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::varchar, format('ship-%s%s', n % 5, case when n % 2 = 0 then '+eu' end),
    'Moved', jsonb_build_object('n', n), jsonb_build_object('correlationStreamName', case n % 3 when 0 then 'route-' || n when 1 then 'route' end))
from generate_series(1, 12) n;
select write_message('30000000-0000-4000-8000-000000000100', 'shipper-1', 'Hired', '{}');
select write_message('30000000-0000-4000-8000-000000000101', 'ship', 'Counted', '{}');
select write_message('30000000-0000-4000-8000-000000000102', 'ship:command-1', 'Move', '{}');
select stream_name, type, position, global_position, data, metadata from get_category_messages('ship');
select stream_name, global_position from get_category_messages('ship:command');
select global_position from get_category_messages('ship', 10);
select global_position from get_category_messages('ship', 3, 2);
select global_position from get_category_messages('ship', "position" => -1, batch_size => 1);
select global_position from get_category_messages('ship', null, null);
select global_position from get_category_messages('ship', 1, 0);
select global_position from get_category_messages('ship', 11, -1);
select global_position from get_category_messages('ship', 1, -2);
select global_position from get_category_messages('ship', 100000);
select global_position from get_category_messages('boat');
select global_position from get_category_messages('');
select global_position from get_category_messages(null);
select global_position from get_category_messages('ship-1');

-- correlation
select global_position, metadata from get_category_messages('ship', correlation => 'route');
select global_position from get_category_messages('ship', 5, 2, 'route');
select global_position from get_category_messages('ship', correlation => 'rail');
select global_position from get_category_messages('ship', correlation => 'route-3');

-- consumer groups: streams with one cardinal id go to one member
select stream_name, global_position from get_category_messages('ship', consumer_group_member => 0, consumer_group_size => 3);
select stream_name, global_position from get_category_messages('ship', consumer_group_member => 1, consumer_group_size => 3);
select stream_name, global_position from get_category_messages('ship', consumer_group_member => 2, consumer_group_size => 3);
select global_position from get_category_messages('ship', 1, 1000, null, 0, 1);
select global_position from get_category_messages('ship', 2, 3, 'route', 0, 2);
select global_position from get_category_messages('ship', consumer_group_member => 0);
select global_position from get_category_messages('ship', consumer_group_size => 2);
select global_position from get_category_messages('ship', consumer_group_member => 0, consumer_group_size => 0);
select global_position from get_category_messages('ship', consumer_group_member => -1, consumer_group_size => 2);
select global_position from get_category_messages('ship', consumer_group_member => 2, consumer_group_size => 2);
select global_position from get_category_messages('ship', consumer_group_member => 3, consumer_group_size => 2);
select global_position from get_category_messages('ship', consumer_group_member => 0, consumer_group_size => 40000);

-- conditions
select global_position from get_category_messages('ship', condition => 'true');
set message_store.sql_condition = 'on';
select global_position from get_category_messages('ship', 2, 3, condition => '(data ->> ''n'')::int % 2 = 0');
select global_position from get_category_messages('ship', 1, 2, 'route', 0, 2, 'messages.global_position > 3');
