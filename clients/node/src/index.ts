/** The Node client of pg_outbox, the transactional outbox inside PostgreSQL. */

export { enqueue, enqueueMany, Outbox } from './client/outbox.js';
export type { WithContent } from './client/outbox.js';
export { Content, enqueueManyStatement, enqueueStatement, message, MessageBuilder } from './client/message.js';
export type { NewMessage } from './client/message.js';
export { run, transaction } from './client/driver.js';
export type {
    DrizzleLike, Executor, KnexLike, KyselyLike, MikroOrmLike, PgLike, PostgresJsLike, PrismaLike, SequelizeLike, SequelizeTransactionLike, Session, Statement,
    TransactionOf,
} from './client/driver.js';
export { VERSION } from './client/version.js';
export * from './client/errors.js';
export { Reject, RetryAfter, Worker } from './work/worker.js';
export type { ClaimedMessage, Handler, HandlerContext, WorkerHealth, WorkerOptions, WorkerSummary } from './work/worker.js';
export type { Logger } from './work/log.js';
export { deliveries } from './work/deliveries.js';
export type { Delivery } from './work/deliveries.js';
export { Reader } from './work/reader.js';
export type { FeedMessage, ReaderHealth, ReaderOptions } from './work/reader.js';
export { defineTopics, Topics } from './app/topics.js';
export type { EnqueueOptions, Handlers, Schemas } from './app/topics.js';
export { unchecked } from './app/schema.js';
export type { Input, Output, Schema } from './app/schema.js';
export { WorkerApp } from './app/app.js';
export type { Alongside, AppHandler, AppHealth, AppOptions, Handle, Middleware, Projection, RetryRules, RunOptions } from './app/app.js';
export type { Periodic } from './app/periodic.js';
export { sign, Verifier } from './receive/webhooks.js';
export { checkPattern, checkTopic, topicMatches } from './receive/topics.js';
export type { HeadersLike, VerifierOptions, Webhook, WithWebhook } from './receive/webhooks.js';
export { shutdownSignal } from './work/time.js';
export type { Interval, ViewOptions } from './client/sql.js';
export { FUNCTIONS, VIEWS } from './client/functions.js';
export type * from './client/functions.js';
