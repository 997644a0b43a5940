-- The view messages, and the summaries.

-- API: private
create function outbox_internal.create_message_store_views() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $install$
declare
    summary record;
begin
    create or replace function message_store._messages() returns setof message_store._row
    language plpgsql volatile
    set search_path = pg_catalog, message_store, pg_temp
    as $$
    declare
        after bigint := 0;
        feed_end bigint;
        event message_store._row;
        any_event boolean := true;
    begin
        perform outbox_internal.await_positions();
        feed_end := outbox.head();
        while any_event and after < feed_end loop
            any_event := false;
            for event in select * from message_store._category_page(null, after, 1000) loop
                any_event := true;
                after := event.global_position;
                if event.id is not null then
                    return next event;
                end if;
            end loop;
        end loop;
    end
    $$;

    create or replace view message_store.messages as
    select m.global_position, m."position", m."time", m.stream_name, m.type, m.data, m.metadata, m.id
    from message_store._messages() m;

    for summary in
        select * from (values
            ('stream_summary', 'm.stream_name'),
            ('type_summary', 'm.type'),
            ('stream_type_summary', 'm.stream_name, m.type'),
            ('type_stream_summary', 'm.type, m.stream_name'),
            ('category_type_summary', 'message_store.category(m.stream_name) as category, m.type'),
            ('type_category_summary', 'm.type, message_store.category(m.stream_name) as category')
        ) v(name, columns)
    loop
        execute format(
            'create or replace view message_store.%I as
            select %s, count(*) as message_count, round(count(*) / sum(count(*)) over () * 100, 2) as percent
            from message_store.messages m
            group by %s
            order by %3$s',
            summary.name, summary.columns, case when summary.columns like '%,%' then '1, 2' else '1' end);
    end loop;
end
$install$;
