/**
 * Databases for tests: on the server that PG_OUTBOX_TEST_DSN names, or on a throwaway server with the installed PostgreSQL.
 *
 * A throwaway server has a temporary folder, a free port on loopback and a password. It ends with the process that started it,
 * however that one ends: a shell waits on a pipe that only this process holds open, and removes the folder. PostgreSQL refuses to run
 * as root, so for root the server runs as `nobody`.
 */

import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { pgOf } from '../app/app.js';
import { run, type Executor } from '../client/driver.js';
import { errorOf, OutboxError } from '../client/errors.js';
import { Outbox } from '../client/outbox.js';
import { sleep } from '../work/time.js';

const execute = promisify(execFile);

/** The environment variable with the connection string of a server for tests, whose role may create databases. */
export const TEST_DSN = 'PG_OUTBOX_TEST_DSN';

/** Settings of a throwaway server. */
export interface TestServerOptions {
    /** Settings of PostgreSQL. */
    settings?: Record<string, string | number | boolean>;
    /** The program pg_config of the PostgreSQL in which the extension is installed. The default is PG_CONFIG, or the one in the PATH. */
    pgConfig?: string;
}

/** Endpoints on loopback are allowed, and a crash may lose data. */
const SETTINGS = {
    shared_preload_libraries: 'pg_outbox', listen_addresses: '127.0.0.1', unix_socket_directories: '', max_connections: 200, fsync: 'off', full_page_writes: 'off',
    max_worker_processes: 100, 'pg_outbox.max_databases': 90, 'pg_outbox.allow_http': 'on', 'pg_outbox.egress_allow': '127.0.0.0/8',
};

/** When this process ends, the input of the shell ends, and the shell ends the server. The log of one that does not start is still read. */
const SUPERVISED =
    'folder=$1; shift; exec 3<&0; "$@" <&- 3<&- & pid=$!; (cat <&3 >/dev/null; kill -QUIT $pid 2>/dev/null) & exec 3<&-; wait $pid; [ ! -e "$folder/ready" ] || rm -rf "$folder"';

async function binaries(pgConfig: string | undefined): Promise<string> {
    const config = pgConfig ?? process.env.PG_CONFIG;
    const found = await execute(config ?? 'pg_config', ['--bindir']).then(({ stdout }) => stdout.trim(), () => undefined);
    if (found !== undefined) return found;
    const debian = config === undefined ? await readdir('/usr/lib/postgresql').catch(() => [] as string[]) : [];
    const newest = debian.filter((name) => /^\d+$/.test(name)).sort((a, b) => Number(b) - Number(a))[0];
    if (newest !== undefined) return `/usr/lib/postgresql/${newest}/bin`;
    throw errorOf('no PostgreSQL was found for a throwaway server', '58P01', {
        detail: `${config ?? 'pg_config'} cannot be run.`,
        hint: `Set PG_CONFIG to the pg_config of a PostgreSQL with the extension, or ${TEST_DSN} to the connection string of a server.`,
    });
}

/** Returns the command before a program of PostgreSQL, and the function that gives a folder to its user. Both do nothing unless this process is root. */
async function asServer(program: string): Promise<{ prefix: string[]; own: (path: string) => Promise<void> }> {
    if (process.getuid?.() !== 0) return { prefix: [], own: async () => {} };
    const [uid, gid] = await Promise.all(['-u', '-g'].map(async (what) => (await execute('id', [what, 'nobody'])).stdout.trim()));
    const drop = ['setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups'];
    const reaches = await execute('setpriv', [...drop.slice(1), 'test', '-x', program]).then(() => true, () => false);
    const more = reaches ? [] : ['--inh-caps=+dac_override,+dac_read_search', '--ambient-caps=+dac_override,+dac_read_search'];
    return { prefix: [...drop, ...more], own: async (path) => void (await execute('chown', ['-R', `${uid}:${gid}`, path])) };
}

function freePort(): Promise<number> {
    return new Promise((resolve, reject) => {
        const probe = createServer();
        probe.once('error', reject);
        probe.listen(0, '127.0.0.1', () => {
            const { port } = probe.address() as AddressInfo;
            probe.close(() => resolve(port));
        });
    });
}

const shortened = (text: string): string => text.trim().split('\n').slice(-20).join('\n');

/** A server for tests, and the databases on it. */
export class TestServer {
    /** The connection string of its first database, as a role that may create databases. */
    readonly dsn: string;
    readonly #process: ChildProcess | undefined;
    readonly #ended: Promise<unknown> | undefined;

    private constructor(dsn: string, process?: ChildProcess, ended?: Promise<unknown>) {
        this.dsn = dsn;
        this.#process = process;
        this.#ended = ended;
    }

    /** Returns the server that PG_OUTBOX_TEST_DSN names, or starts a throwaway server. */
    static async given(options: TestServerOptions = {}): Promise<TestServer> {
        const dsn = process.env[TEST_DSN];
        return dsn ? new TestServer(dsn) : TestServer.start(options);
    }

    /** Starts a throwaway server with the library preloaded. It takes about a second. */
    static start(options: TestServerOptions = {}): Promise<TestServer> {
        return TestServer.#start(options, 5);
    }

    static async #start(options: TestServerOptions, attempts: number): Promise<TestServer> {
        const { settings = {}, pgConfig } = options;
        const bin = await binaries(pgConfig);
        const { prefix, own } = await asServer(join(bin, 'postgres'));
        const folder = await mkdtemp(join(tmpdir(), 'pg-outbox-test-'));
        const env: NodeJS.ProcessEnv = { ...process.env, LC_ALL: 'C' };
        for (const name of ['PGHOST', 'PGPORT', 'PGUSER', 'PGDATABASE', 'PGPASSWORD']) delete env[name];
        const command = (program: string, ...args: string[]) => [...prefix, join(bin, program), ...args];
        try {
            const password = randomBytes(18).toString('base64url');
            const [data, secret, log] = ['data', 'password', 'log'].map((name) => join(folder, name)) as [string, string, string];
            await writeFile(secret, password, { mode: 0o600 });
            await own(folder);
            const [first, ...rest] = command('initdb', '-U', 'postgres', '--auth=scram-sha-256', '--encoding=UTF8', '--locale=C', '--no-sync', '-D', data, `--pwfile=${secret}`);
            await execute(first!, rest, { env, cwd: '/' });
            await rm(secret);
            const port = await freePort();
            const all = Object.entries({ ...SETTINGS, ...settings }).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
            const output = await open(log, 'w');
            const child = spawn('sh', ['-c', SUPERVISED, 'sh', folder, ...command('postgres', '-D', data, '-p', String(port), ...all)], {
                env, cwd: '/', stdio: ['pipe', output.fd, output.fd],
            });
            await output.close();
            let over = false;
            const ended = new Promise((resolve) => child.once('close', resolve)).then(() => (over = true));
            const deadline = Date.now() + 60_000;
            const ready = () => execute(join(bin, 'pg_isready'), ['-q', '-h', '127.0.0.1', '-p', String(port)], { env }).then(() => true, () => false);
            while (!over && !(await ready()) && Date.now() < deadline) await sleep(0.02);
            if (!over && (await ready())) {
                await writeFile(join(folder, 'ready'), '');
                // The process may end without having ended the server.
                child.unref();
                (child.stdin as unknown as { unref(): void }).unref();
                return new TestServer(`postgresql://postgres:${password}@127.0.0.1:${port}/postgres`, child, ended);
            }
            const said = shortened(await readFile(log, 'utf8').catch(() => ''));
            child.stdin!.end();
            await ended;
            await rm(folder, { recursive: true, force: true });
            // Another process took the port.
            if (attempts > 1 && said.includes('could not bind')) return await TestServer.#start(options, attempts - 1);
            throw errorOf('the throwaway server did not start', '58000', { detail: said });
        } catch (error) {
            await rm(folder, { recursive: true, force: true });
            if (error instanceof OutboxError) throw error;
            throw errorOf('the throwaway server did not start', '58000', { cause: error, detail: shortened(String((error as { stderr?: string }).stderr ?? error)) });
        }
    }

    /** Creates a database with the extension, and returns its connection string. */
    async database(): Promise<string> {
        const name = `test_${randomBytes(8).toString('hex')}`;
        await onPool(this.dsn, (pool) => run(pool, { text: `create database ${name}`, values: [] }));
        const url = new URL(this.dsn);
        url.pathname = `/${name}`;
        await onPool(url.href, async (pool) => {
            await run(pool, { text: 'create extension pg_outbox', values: [] });
            await new Outbox(pool).check();
        });
        return url.href;
    }

    /** Drops a database that `database` has created, and ends its sessions. */
    async drop(dsn: string): Promise<void> {
        const name = new URL(dsn).pathname.slice(1);
        if (!/^test_[0-9a-f]{16}$/.test(name)) throw errorOf('not a database of a test', '22023', { detail: `It is ${name.slice(0, 100)}.` });
        await onPool(this.dsn, (pool) => run(pool, { text: `drop database if exists ${name} with (force)`, values: [] }));
    }

    /** Ends a throwaway server and removes its folder. */
    async end(): Promise<void> {
        if (this.#process === undefined) return;
        this.#process.ref();
        this.#process.stdin!.end();
        await this.#ended;
    }
}

async function onPool<T>(dsn: string, body: (pool: Executor) => Promise<T>): Promise<T> {
    const pool = new (pgOf())({ connectionString: dsn, max: 1 });
    // The session of a database that is dropped breaks.
    pool.on('error', () => {});
    try {
        return await body(pool);
    } finally {
        await pool.end();
    }
}

/** The hooks of a test runner: `before` and `after` of node:test, `beforeAll` and `afterAll` of vitest; or those of each test. */
export interface Hooks {
    before(body: () => Promise<void>): unknown;
    after(body: () => Promise<void>): unknown;
}

/** A database of a test, from the hook `before` on. */
export interface TestDatabase {
    readonly dsn: string;
    /** A pool of pg with this database. */
    readonly pool: any;
}

let shared: Promise<TestServer> | undefined;

/**
 * Gives the tests of a file, or each test, a database with the extension:
 *
 * ```ts
 * const db = useDatabase({ before, after }); // vitest: { before: beforeAll, after: afterAll }; for each test: beforeEach, afterEach
 * test('...', () => transaction(db.pool, ...));
 * ```
 *
 * The server is the one of PG_OUTBOX_TEST_DSN, or a throwaway server, which all databases of this process share. The command
 * `pg-outbox with-server node --test` starts one for all files.
 */
export function useDatabase({ before, after }: Hooks, options: TestServerOptions = {}): TestDatabase {
    let current: { server: TestServer; dsn: string; pool: any } | undefined;
    const now = () => {
        if (current !== undefined) return current;
        throw errorOf('there is no database yet', '55000', { hint: 'It exists inside of tests, and in hooks behind the one of useDatabase().' });
    };
    before(async () => {
        shared ??= TestServer.given(options);
        const server = await shared;
        const dsn = await server.database();
        const pool = new (pgOf())({ connectionString: dsn });
        pool.on('error', () => {});
        current = { server, dsn, pool };
    });
    after(async () => {
        if (current === undefined) return;
        const { server, dsn, pool } = current;
        current = undefined;
        await pool.end();
        await server.drop(dsn);
    });
    return {
        get dsn() {
            return now().dsn;
        },
        get pool() {
            return now().pool;
        },
    };
}
