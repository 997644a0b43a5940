/** The Node client of pg_outbox, the transactional outbox inside PostgreSQL. */

export { enqueue, enqueueMany, Outbox } from './outbox.js';
export type { WithContent } from './outbox.js';
export { Content, enqueueManyStatement, enqueueStatement, message, MessageBuilder } from './message.js';
export type { NewMessage } from './message.js';
export { run, transaction } from './driver.js';
export type { DrizzleLike, Executor, KnexLike, PgLike, PostgresJsLike, PrismaLike, Statement } from './driver.js';
export * from './errors.js';
export { Reject, RetryAfter, Worker } from './worker.js';
export type { ClaimedMessage, Handler, HandlerContext, WorkerOptions, WorkerSummary } from './worker.js';
export { deliveries } from './deliveries.js';
export type { Delivery } from './deliveries.js';
export { Reader } from './reader.js';
export type { FeedMessage, ReaderOptions } from './reader.js';
export { checkPattern, checkTopic, sign, topicMatches, Verifier } from './webhooks.js';
export type { HeadersLike, VerifierOptions, Webhook, WithWebhook } from './webhooks.js';
export { shutdownSignal } from './time.js';
export type { Interval, ViewOptions } from './sql.js';
export * from './functions.js';
