/**
 * Chains of upcasters. An upcaster turns the data of an event type from one schema version into the next one, when an event is
 * loaded; what is stored never changes. The rules are those of crates/core/src/upcast.rs.
 */

import { SchemaError } from './errors.js';

/** Turns data of one schema version into that of the next one. It may change and return what it gets. */
export type Upcaster = (data: any, event: { type: string; metadata: Record<string, unknown> }) => unknown;

/** The schema version of an event that names none. */
const FIRST = 1;
/** The largest version. */
const LAST = 2 ** 32 - 1;

const refused = (message: string, detail?: string, hint?: string) => new SchemaError(message, '22023', { detail, hint });

/** The upcasters that are registered: `new Upcasters().add('order.placed', 1, (data) => ({ ...data, currency: 'EUR' }))`. */
export class Upcasters {
    readonly #types = new Map<string, Map<number, Upcaster>>();

    /** Adds the upcaster of a type from the version `from` to `from + 1`. Versions begin with 1. */
    add(type: string, from: number, upcaster: Upcaster): this {
        if (!Number.isInteger(from) || from < FIRST || from >= LAST) {
            throw refused(`malformed schema version ${from}`, undefined, 'Versions begin with 1.');
        }
        let versions = this.#types.get(type);
        if (versions === undefined) this.#types.set(type, (versions = new Map()));
        if (versions.has(from)) throw refused(`event type ${type} has two upcasters from version ${from}`);
        versions.set(from, upcaster);
        return this;
    }

    /** Throws a SchemaError if a version between the lowest and the latest one of a type has no upcaster. */
    check(): void {
        for (const type of [...this.#types.keys()].sort()) {
            const versions = [...this.#types.get(type)!.keys()].sort((a, b) => a - b);
            const gap = versions.findIndex((version, i) => version !== versions[0]! + i);
            if (gap > 0) {
                throw refused(
                    `event type ${type} has no upcaster from version ${versions[0]! + gap}`,
                    undefined,
                    'Each version up to the latest one needs an upcaster.',
                );
            }
        }
    }

    /** Returns the version that the upcasters of a type end with; 1 without upcasters. New events are stored with it. */
    latest(type: string): number {
        const versions = this.#types.get(type);
        return versions === undefined ? FIRST : Math.max(...versions.keys()) + 1;
    }

    /**
     * Returns the versions from which upcasters run, in order. Data of a newer version than the latest one is left as it is: a
     * newer release of the application has written it.
     */
    steps(type: string, version: number): number[] {
        const latest = this.latest(type);
        const steps: number[] = [];
        for (let from = version; from < latest; from += 1) {
            if (!this.#types.get(type)?.has(from)) {
                throw refused(`event type ${type} has no upcaster from version ${from}`, `The event has version ${version}, the latest is ${latest}.`);
            }
            steps.push(from);
        }
        return steps;
    }

    /** Returns data of an event in the latest version of its type. */
    upcast(type: string, data: unknown, metadata: Record<string, unknown>): unknown {
        if (!this.#types.has(type)) return data;
        const version = metadata.schema_version ?? FIRST;
        if (typeof version !== 'number' || !Number.isInteger(version) || version < FIRST || version > LAST) {
            throw refused(`malformed schema version of an event of type ${type}`);
        }
        const versions = this.#types.get(type)!;
        return this.steps(type, version).reduce((older, from) => {
            const newer = versions.get(from)!(older, { type, metadata });
            if (newer === undefined) throw refused(`the upcaster of event type ${type} from version ${from} has returned nothing`);
            return newer;
        }, data);
    }
}
