/** Topics with the schemas of their payloads: enqueueing and handling are checked by the compiler and by the schema. */

import type { Session } from '../client/driver.js';
import { invalid } from '../client/errors.js';
import type { NewMessage } from '../client/message.js';
import { enqueue, enqueueMany } from '../client/outbox.js';
import { checkTopic } from '../receive/topics.js';
import { WorkerApp, type AppHandler, type AppOptions } from './app.js';
import { validated, type Input, type Output, type Schema } from './schema.js';

/** Schemas by topic. */
export type Schemas = Record<string, Schema<any, any>>;

/** The fields of a message beside topic and payload. */
export type EnqueueOptions = Omit<NewMessage, 'topic' | 'payload' | 'body' | 'contentType'>;

/** A topic pattern: `*` matches one word, `#` any number of words. */
type TopicPattern = `${string}*${string}` | `${string}#${string}`;

/**
 * The handlers of a worker application, by topic or topic pattern. The handler of the topic itself comes before that of a pattern, and
 * an earlier pattern before a later one. The payload of a pattern has the type of one of the topics.
 */
export type Handlers<S extends Schemas> = { [Topic in keyof S & string]?: AppHandler<Output<S[Topic]>> } & {
    [Pattern in TopicPattern]?: AppHandler<Output<S[keyof S & string]>>;
};

/** The topics of an application. {@link defineTopics} makes it. */
export class Topics<S extends Schemas> {
    readonly schemas: S;

    constructor(schemas: S) {
        for (const topic of Object.keys(schemas)) checkTopic(topic);
        this.schemas = schemas;
    }

    /** Returns the schema of a topic. */
    #schema(topic: string): Schema<any, any> {
        if (Object.hasOwn(this.schemas, topic)) return this.schemas[topic]!;
        throw invalid(`topic "${topic}" is not defined`, { hint: `The topics are ${Object.keys(this.schemas).join(', ')}.` });
    }

    /**
     * Enqueues a message in your transaction and returns its id. A payload that does not fit the schema of the topic is an error
     * of the compiler, and an InvalidError.
     */
    async enqueue<Topic extends keyof S & string>(
        tx: Session,
        topic: Topic,
        payload: Input<S[Topic]>,
        options: EnqueueOptions = {},
    ): Promise<number> {
        const checked = validated(this.#schema(topic), topic, payload);
        // Without a wait here, the statement is on its way when this method returns. A connection of pg keeps the order, so that even
        // a message whose `await` was forgotten is part of the transaction.
        if (checked instanceof Promise) await checked;
        return enqueue(tx, { ...options, topic, payload });
    }

    /** Enqueues many messages of one topic in one statement of your transaction, and returns their ids in order. */
    async enqueueMany<Topic extends keyof S & string>(
        tx: Session,
        topic: Topic,
        payloads: readonly Input<S[Topic]>[],
        options: EnqueueOptions = {},
    ): Promise<number[]> {
        for (const payload of payloads) {
            const checked = validated(this.#schema(topic), topic, payload);
            if (checked instanceof Promise) await checked;
        }
        return enqueueMany(tx, payloads.map((payload) => ({ ...options, topic, payload })));
    }

    /**
     * Returns a worker application for a pull subscription, with a handler for each topic or topic pattern: `npx pg-outbox worker ./app.js` runs
     * it, or its method `run`.
     */
    worker(subscription: string, handlers: Handlers<S>, options: AppOptions = {}): WorkerApp {
        for (const topic of Object.keys(handlers)) if (!/[*#]/.test(topic)) this.#schema(topic);
        return new WorkerApp(subscription, handlers as Record<string, AppHandler<any>>, this.schemas, options);
    }
}

/** Defines topics: `defineTopics({ 'order.created': z.object({ order: z.number() }), 'order.paid': unchecked<Paid>() })`. */
export function defineTopics<const S extends Schemas>(schemas: S): Topics<S> {
    return new Topics(schemas);
}
