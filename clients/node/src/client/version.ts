/** The versions of this client and of the extension have to fit. */

import { run, type Executor } from './driver.js';
import { errorOf, FatalError } from './errors.js';

/** The version of this client, which is that of the extension with which it was published. */
export const VERSION = '0.1.0';

/** Returns whether a client of one version works with an extension of the other. Before 1.0 the minor version has to be the same. */
export function fits(client: string, extension: string): boolean {
    const [major, minor] = client.split('.');
    const [otherMajor, otherMinor] = extension.split('.');
    return major === otherMajor && (major !== '0' || minor === otherMinor);
}

/** Throws a FatalError if the extension is missing in the database of this client, or if its version does not fit. */
export async function checkVersion(client: Executor): Promise<void> {
    const [row] = await run(client, { text: "select extversion as version from pg_catalog.pg_extension where extname = 'pg_outbox'", values: [] });
    if (row === undefined) throw errorOf('pg_outbox is not installed in this database', '3F000');
    const extension = row.version ?? '';
    if (fits(VERSION, extension)) return;
    throw new FatalError('the extension and this client do not fit', '42883', {
        detail: `The extension in this database is ${extension}, the client is ${VERSION}.`,
        hint: `Update the older one: "alter extension pg_outbox update", or "npm install pg-outbox@${extension}".`,
    });
}
