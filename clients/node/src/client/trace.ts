/**
 * OpenTelemetry, where an application uses it: a message carries the `traceparent` of the span that enqueued it, and its handler
 * runs in a span that continues this trace. Without an SDK that is registered nothing is loaded.
 */

import type { Content, NewMessage } from './message.js';
import { MessageBuilder } from './message.js';

/** Where the API of OpenTelemetry keeps the SDK that is registered. */
const REGISTERED = Symbol.for('opentelemetry.js.api.1');

let loaded: any;

/** Returns the API of OpenTelemetry if the application has registered an SDK. */
function api(): any {
    if ((globalThis as any)[REGISTERED] === undefined) return undefined;
    try {
        loaded ??= require('@opentelemetry/api');
    } catch {
        loaded = null;
    }
    return loaded ?? undefined;
}

/** Returns the trace context of the current span, as entries of metadata. Undefined: there is none. */
export function traceEntries(): Record<string, string> | undefined {
    const otel = api();
    if (otel === undefined || otel.trace.getActiveSpan() === undefined) return undefined;
    const carrier: Record<string, string> = {};
    otel.propagation.inject(otel.context.active(), carrier);
    const { traceparent, tracestate } = carrier;
    if (traceparent === undefined) return undefined;
    return { traceparent, ...(tracestate ? { tracestate } : {}) };
}

/** Returns a message with the trace context of the current span in its metadata, unless it has one of its own. */
export function traced(message: NewMessage | MessageBuilder): NewMessage | MessageBuilder {
    const entries = traceEntries();
    if (entries === undefined) return message;
    const given = message instanceof MessageBuilder ? message.build() : message;
    if (typeof given !== 'object' || given === null || given.metadata?.traceparent !== undefined) return message;
    return { ...given, metadata: { ...given.metadata, ...entries } };
}

/** The properties of a delivery that the span of its handler has. */
export interface Traced {
    topic: string;
    webhookId: string;
    subscription: string;
    attempt: number;
}

/** Runs `body` in a span that continues the trace of the message. Without an SDK it only runs `body`. */
export async function inSpan<T>(message: Traced & Content, body: () => Promise<T>): Promise<T> {
    const otel = api();
    if (otel === undefined) return body();
    const parent = otel.propagation.extract(otel.context.active(), message.metadata ?? {});
    const attributes = {
        'messaging.system': 'pg_outbox',
        'messaging.operation.type': 'process',
        'messaging.destination.name': message.topic,
        'messaging.consumer.group.name': message.subscription,
        'messaging.message.id': message.webhookId,
        'pg_outbox.attempt': message.attempt,
    };
    const tracer = otel.trace.getTracer('pg-outbox');
    return tracer.startActiveSpan(`process ${message.topic}`, { kind: otel.SpanKind.CONSUMER, attributes }, parent, async (span: any) => {
        try {
            return await body();
        } catch (error) {
            span.recordException(error);
            span.setStatus({ code: otel.SpanStatusCode.ERROR, message: error instanceof Error ? error.message : String(error) });
            throw error;
        } finally {
            span.end();
        }
    });
}
