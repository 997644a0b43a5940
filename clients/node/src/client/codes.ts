// Made by tools/gen/clients.py from the table of errors of the core crate: do not edit.

import type { ErrorKind } from './errors.js';

/** Symbolic name and kind of a SQLSTATE. */
export const STATES: Record<string, readonly [string, ErrorKind]> = {
    'OB001': ['not_found', 'not_found'],
    'OB002': ['already_processed', 'conflict'],
    'OB003': ['leased', 'lease_lost'],
    'OB004': ['invalid_transition', 'conflict'],
    'OB005': ['non_monotonic_cursor', 'conflict'],
    'OB006': ['reset_reason_required', 'invalid'],
    'OB007': ['inactive', 'inactive'],
    'OB008': ['idempotency_conflict', 'conflict'],
    'OB009': ['invalid_cursor', 'invalid'],
    'OB010': ['expired', 'conflict'],
    'OB011': ['max_attempts', 'conflict'],
    'OB012': ['not_ready', 'retry'],
    'OB013': ['version_conflict', 'conflict'],
    'OB014': ['stream_closed', 'conflict'],
    'OB015': ['projection_faulted', 'conflict'],
    'OB016': ['incompatible_schema', 'conflict'],
    '22023': ['invalid_parameter', 'invalid'],
    '22004': ['null_not_allowed', 'invalid'],
    '54000': ['too_large', 'invalid'],
    '55000': ['object_not_in_prerequisite_state', 'retry'],
    '25001': ['invalid_transaction', 'invalid'],
    '42501': ['insufficient_privilege', 'fatal'],
    '0A000': ['not_supported', 'invalid'],
    'XX000': ['internal', 'fatal'],
    '3F000': ['extension_missing', 'fatal'],
    '42883': ['version_mismatch', 'fatal'],
    '42P01': ['version_mismatch', 'fatal'],
    '42703': ['version_mismatch', 'fatal'],
    '42710': ['duplicate_object', 'conflict'],
    '42704': ['undefined_object', 'not_found'],
    '40001': ['serialization_failure', 'retry'],
    '40P01': ['deadlock_detected', 'retry'],
    '55P03': ['lock_not_available', 'retry'],
    '57014': ['query_canceled', 'retry'],
    '57P01': ['server_shutdown', 'retry'],
    '57P02': ['server_shutdown', 'retry'],
    '57P03': ['server_shutdown', 'retry'],
    '57P05': ['session_timeout', 'retry'],
    '25P03': ['session_timeout', 'retry'],
    '25P04': ['session_timeout', 'retry'],
    '25006': ['read_only', 'retry'],
    '25P02': ['in_failed_transaction', 'invalid'],
    '26000': ['prepared_statement_lost', 'fatal'],
    '42P05': ['prepared_statement_lost', 'fatal'],
    '08P01': ['protocol_violation', 'retry'],
};

/** The same for the other SQLSTATEs that begin with these two characters. */
export const CLASSES: Record<string, readonly [string, ErrorKind]> = {
    '08': ['connection_lost', 'retry'],
    '28': ['authentication_failed', 'fatal'],
    '3D': ['no_such_database', 'fatal'],
    '21': ['invalid_parameter', 'invalid'],
    '22': ['invalid_parameter', 'invalid'],
    '23': ['constraint_violation', 'conflict'],
    '40': ['transaction_rollback', 'retry'],
    '53': ['insufficient_resources', 'retry'],
    '54': ['too_large', 'invalid'],
};

/** A hint for errors that have none, by symbolic name. */
export const HINTS: Record<string, string> = {
    extension_missing:
        'Run "create extension pg_outbox" in this database.',
    version_mismatch:
        'The extension in this database is older or newer than this client: "alter extension pg_outbox update".',
    insufficient_privilege:
        'Have an administrator run "select outbox.grant_to(role, capability)": publish, consume, monitor or admin.',
    prepared_statement_lost:
        'A pooler before the server gives each transaction another session, and this connection\'s driver names its statements: switch that off. psycopg: prepare_threshold=None. asyncpg: statement_cache_size=0. sqlx: statement_cache_capacity(0). pg: no "name" in queries. postgres: prepare: false. Or pool whole sessions.',
    protocol_violation:
        'A pooler before the server says this where it cannot serve a client, and a server where a pooler has mixed up the named statements of two clients: see docs/clients.md, Poolers.',
};
