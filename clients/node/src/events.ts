/** Event sourcing on pg_outbox: events, aggregates, commands, subscriptions, projections and sagas. See EVENTS.md. */

export { ANY, EventStore, NO_STREAM, STREAM_EXISTS } from './events/store.js';
export type { Appended, AppendHook, AppendOptions, EventExtras, RecordedEvent, StoreOptions } from './events/store.js';
export { defineEvents, EventRegistry } from './events/registry.js';
export type { AnyEvent, DataOf, EventClass, EventsIn, EventsOf, EventsOut, RegistryOptions } from './events/registry.js';
export type { Serializer } from './events/serializers.js';
export { causedBy, currentContext, newId, now, withContext } from './events/context.js';
export type { EventContext } from './events/context.js';
export { Aggregate } from './events/aggregate.js';
export type { AggregateClass, EventHandlers } from './events/aggregate.js';
export { Repository, saveAll } from './events/repository.js';
export type { Executed, RepositoryOptions } from './events/repository.js';
export { isConflict, retrying } from './events/retry.js';
export type { RetryPolicy } from './events/retry.js';
export { Upcasters } from './events/upcasters.js';
export type { Upcaster } from './events/upcasters.js';
export { FieldEncryption, LocalKeys } from './events/encryption.js';
export type { EncryptionOptions, KeyProvider, OnUndecryptable, Plain } from './events/encryption.js';
export { CommandBus } from './events/commands.js';
export type { Command, CommandContext, CommandHandler, CommandMiddleware, DispatchOptions, ResultOf } from './events/commands.js';
export * from './events/middleware.js';
export * from './events/errors.js';
export { transaction } from './client/driver.js';
export type { Executor, Session } from './client/driver.js';
export { OutboxError } from './client/errors.js';
export { unchecked } from './app/schema.js';
export type { Schema } from './app/schema.js';
