-- Reading a stream: positions, batches, conditions, the last message.
select write_message(('20000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::varchar, 'cart-1', case n % 3 when 0 then 'Added' else 'Removed' end,
    jsonb_build_object('n', n), jsonb_build_object('odd', n % 2 = 1)) from generate_series(1, 6) n;
select write_message('20000000-0000-4000-8000-000000000100', 'cart-10', 'Added', '{}');
\x on
select id, stream_name, type, position, global_position, data, metadata from get_stream_messages('cart-1');
\x off
select position, global_position from get_stream_messages('cart-1', 2);
select position from get_stream_messages('cart-1', 2, 3);
select position from get_stream_messages('cart-1', "position" => -4, batch_size => 2);
select position from get_stream_messages('cart-1', null, null);
select position from get_stream_messages('cart-1', 0, 0);
select position from get_stream_messages('cart-1', 4, -1);
select position from get_stream_messages('cart-1', 0, -2);
select position from get_stream_messages('cart-1', 6);
select position from get_stream_messages('cart-1', 9223372036854775806);
select position from get_stream_messages('cart-1', 9223372036854775807);
select position from get_stream_messages('cart-2');
select position from get_stream_messages('cart');
select position from get_stream_messages(null);

-- the last message
select type, position, global_position from get_last_stream_message('cart-1');
select type, position, global_position from get_last_stream_message('cart-1', 'Added');
select type, position, global_position from get_last_stream_message('cart-1', type => 'Removed');
select type, position from get_last_stream_message('cart-1', 'Lost');
select type, position from get_last_stream_message('cart-2');
select type, position from get_last_stream_message('cart');
select type, position from get_last_stream_message(null);

-- conditions
select position from get_stream_messages('cart-1', condition => 'true');
set message_store.sql_condition = 'off';
select position from get_stream_messages('cart-1', condition => 'true');
set message_store.sql_condition = 'on';
select position from get_stream_messages('cart-1', condition => 'type = ''Added''');
select position from get_stream_messages('cart-1', 1, 2, condition => '(metadata ->> ''odd'')::boolean');
select position from get_stream_messages('cart-1', condition => 'messages.position % 2 = 0 or global_position = 2');
select position from get_stream_messages('cart-1', condition => 'id = ''20000000-0000-4000-8000-000000000003''::uuid and category(stream_name) = ''cart''');
select position from get_stream_messages('cart-1', condition => 'time > now() - interval ''1 day'' and data is not null');
select position from get_stream_messages('cart-1', condition => 'null');
