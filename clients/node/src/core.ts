/** The native part: the decisions of the Rust core crate, which the extension and the other clients also use. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** The fields of an error of the core. */
export interface Refusal {
    code: string;
    name?: string;
    message: string;
    detail?: string;
    hint?: string;
}

interface NativeVerifier {
    /**
     * Checks a request. The headers are webhook-id, webhook-timestamp, webhook-signature and content-encoding. `content`
     * is set if the signed content is not the body itself but the decompressed body.
     */
    verify(
        headers: (string | undefined)[],
        body: Buffer,
        limit: number,
        now: number,
    ): { signedAt?: number; content?: Buffer; refusal?: Refusal };
}

interface Native {
    classify(state: string): { name: string; kind: string; hint?: string };
    codes(): string[];
    checkTopic(text: string): Refusal | null;
    checkPattern(text: string): Refusal | null;
    matches(pattern: string, topic: string): boolean;
    checkSecret(secret: string): Refusal | null;
    sign(secrets: string[], id: string, timestamp: number, body: Buffer): string | null;
    NativeVerifier: new (secrets: string[], tolerance: number) => NativeVerifier;
}

/** Returns the name of the addon for this platform, for example `pg-outbox.linux-x64-gnu.node`. */
function addonName(): string {
    let libc = '';
    if (process.platform === 'linux') {
        const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined;
        libc = report?.header?.glibcVersionRuntime ? '-gnu' : '-musl';
    }
    return `pg-outbox.${process.platform}-${process.arch}${libc}.node`;
}

function load(): Native {
    const name = addonName();
    const file = join(__dirname, '..', 'native', name);
    if (!existsSync(file)) {
        throw new Error(
            `pg-outbox has no native part for this platform ("native/${name}" is missing). ` +
                'Build it from the sources of pg_outbox: "npm run build" in clients/node needs Rust.',
        );
    }
    return require(file) as Native;
}

export const native: Native = load();
