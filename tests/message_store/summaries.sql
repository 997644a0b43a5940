-- The view messages and the summaries.
select * from stream_summary;
select * from type_summary;
select write_message(('40000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::varchar, format('%s-%s', case when n < 4 then 'book' else 'card' end, n % 2),
    case n % 3 when 0 then 'Lent' else 'Returned' end, '{}') from generate_series(1, 7) n;
select global_position, position, stream_name, type, data, metadata, id from messages order by global_position;
select * from messages where stream_name = 'none';
select * from stream_summary;
select * from type_summary;
select * from stream_type_summary;
select * from type_stream_summary;
select * from category_type_summary;
select * from type_category_summary;
