//! Settings that a background worker must not inherit from ALTER ROLE, ALTER DATABASE, ALTER SYSTEM or the configuration
//! file.
//!
//! A background worker is nobody's session. A setting that was chosen for people or applications (a short time-out, another
//! role, another number format) must neither end it nor change what it reads and writes. Settings of the server stay as they
//! are: logging and statistics, how WAL is written, memory for sorting.

use std::ffi::CStr;

use pgrx::pg_sys;

type Setting = (&'static CStr, &'static CStr);

/// For every background worker, before it connects: the transaction that connects has a time limit as well, and a short one
/// would end the process again and again.
pub const BEFORE_CONNECTING: [Setting; 1] = [(c"transaction_timeout", c"0")];

/// For every background worker.
pub const PINNED: [Setting; 14] = [
    // The process keeps its own role.
    (c"role", c"none"),
    // An ERROR ends a transaction, not the process.
    (c"exit_on_error", c"off"),
    (c"transaction_timeout", c"0"),
    (c"statement_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"idle_session_timeout", c"0"),
    (c"client_connection_check_interval", c"0"),
    // Shorter than deadlock_timeout: in a conflict with DDL this process gives way.
    (c"lock_timeout", c"500ms"),
    (c"deadlock_timeout", c"1s"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"client_min_messages", c"error"),
];

/// For a process that runs SQL.
pub const SQL: [Setting; 64] = [
    // Rights, triggers, visibility of rows.
    (c"row_security", c"on"),
    (c"session_replication_role", c"origin"),
    (c"event_triggers", c"on"),
    (c"restrict_nonsystem_relation_kind", c""),
    (c"check_function_bodies", c"on"),
    (c"lo_compat_privileges", c"off"),
    (c"allow_system_table_mods", c"off"),
    // How text is read and written.
    (c"standard_conforming_strings", c"on"),
    (c"backslash_quote", c"safe_encoding"),
    (c"escape_string_warning", c"off"),
    (c"array_nulls", c"on"),
    (c"transform_null_equals", c"off"),
    (c"quote_all_identifiers", c"off"),
    (c"bytea_output", c"hex"),
    (c"xmlbinary", c"base64"),
    (c"xmloption", c"content"),
    (c"DateStyle", c"ISO, YMD"),
    (c"IntervalStyle", c"postgres"),
    (c"TimeZone", c"UTC"),
    (c"timezone_abbreviations", c"Default"),
    (c"extra_float_digits", c"1"),
    (c"lc_messages", c"C"),
    (c"lc_monetary", c"C"),
    (c"lc_numeric", c"C"),
    (c"lc_time", c"C"),
    (c"plpgsql.extra_errors", c"none"),
    (c"plpgsql.extra_warnings", c"none"),
    (c"plpgsql.variable_conflict", c"error"),
    (c"plpgsql.check_asserts", c"on"),
    // Where objects and files are stored.
    (c"default_tablespace", c""),
    (c"temp_tablespaces", c""),
    (c"default_table_access_method", c"heap"),
    (c"temp_file_limit", c"-1"),
    // Every statement of this process has an index; see _tick in sql/schema.
    (c"plan_cache_mode", c"force_generic_plan"),
    (c"enable_seqscan", c"off"),
    (c"enable_bitmapscan", c"off"),
    (c"enable_hashjoin", c"off"),
    (c"enable_mergejoin", c"off"),
    (c"enable_indexscan", c"on"),
    (c"enable_indexonlyscan", c"on"),
    (c"enable_nestloop", c"on"),
    (c"enable_sort", c"on"),
    (c"enable_incremental_sort", c"on"),
    (c"enable_hashagg", c"on"),
    (c"enable_material", c"on"),
    (c"enable_memoize", c"on"),
    (c"enable_tidscan", c"on"),
    (c"enable_partition_pruning", c"on"),
    (c"enable_presorted_aggregate", c"on"),
    (c"constraint_exclusion", c"partition"),
    (c"from_collapse_limit", c"8"),
    (c"join_collapse_limit", c"8"),
    (c"geqo", c"on"),
    (c"geqo_threshold", c"12"),
    (c"seq_page_cost", c"1"),
    (c"random_page_cost", c"4"),
    (c"cpu_tuple_cost", c"0.01"),
    (c"cpu_index_tuple_cost", c"0.005"),
    (c"cpu_operator_cost", c"0.0025"),
    (c"cursor_tuple_fraction", c"0.1"),
    (c"recursive_worktable_factor", c"10"),
    (c"jit", c"off"),
    (c"max_parallel_workers_per_gather", c"0"),
    (c"debug_parallel_query", c"off"),
];

/// Sets the settings that this version of PostgreSQL knows. A setting that it refuses is logged, and the process goes on.
pub fn pin(settings: &[Setting]) {
    for (name, value) in settings {
        set(name, value);
    }
}

pub fn set(name: &CStr, value: &CStr) {
    // SAFETY: NUL-terminated constants; outside a transaction.
    unsafe {
        // A name with a dot belongs to a module that is loaded when it is needed.
        if !name.to_bytes().contains(&b'.') && pg_sys::GetConfigOption(name.as_ptr(), true, false).is_null() {
            return;
        }
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
            pg_sys::GucAction::GUC_ACTION_SET,
            true,
            pgrx::PgLogLevel::LOG as i32,
            false,
        );
    }
}
