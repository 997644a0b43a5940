// The stage of the tests and of the pictures: a real PostgreSQL with the extension, receivers, a dashboard of a role that acts and
// one of a role that only sees, and a Chromium. Programs are built by scripts/test; PG_CONFIG names the PostgreSQL.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { chromium } from 'playwright-core';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const programs = resolve(root, process.env.CARGO_TARGET_DIR ?? 'target', 'debug');

export const TOKEN = 'the-token-of-the-tests';

// Wide and light, narrow and dark.
export const WIDE = { viewport: { width: 1440, height: 900 }, colorScheme: 'light' };
export const NARROW = { viewport: { width: 360, height: 760 }, colorScheme: 'dark', hasTouch: true };

/** Returns what a function returns as soon as that is true; fails after 20 s. */
export async function until(what, check) {
    const end = Date.now() + 20_000;
    for (;;) {
        const found = await check();
        if (found) return found;
        if (Date.now() > end) throw new Error(`waited in vain until ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 25));
    }
}

function lines(stream) {
    const read = createInterface({ input: stream })[Symbol.asyncIterator]();
    return async () => (await read.next()).value;
}

/** A PostgreSQL of its own, with a database `shop` and the roles `acts` and `sees`. */
export class Database {
    static async start() {
        const database = new Database();
        database.child = spawn(join(programs, 'serve'), ['max_worker_processes=20', 'pg_outbox.poll_interval=1s'], {
            stdio: ['pipe', 'pipe', 'inherit'],
        });
        database.child.on('exit', (code, signal) => {
            if (!database.ending) console.error(`the program of the server has ended before the tests: ${signal ?? code}`);
        });
        database.line = lines(database.child.stdout);
        database.server = await database.line();
        database.dsn = database.of('shop');
        await database.sql('create database shop', database.server);
        await database.sql(`set client_min_messages = warning; create extension pg_outbox;
            create role sees login password 'x'; create role acts login password 'x';
            select outbox.grant_to('sees', 'monitor'); select outbox.grant_to('acts', 'admin')`);
        return database;
    }

    /** The connection string of a database, as its owner or as a role. */
    of(name, role) {
        const url = new URL(this.server);
        url.pathname = name;
        if (role) [url.username, url.password] = [role, 'x'];
        return url.href;
    }

    /** Runs statements, and returns the last value of the last of them. */
    async sql(text, dsn = this.dsn) {
        const psql = join(dirname(process.env.PG_CONFIG), 'psql');
        const run = promisify(execFile)(psql, ['-qAtX', '-v', 'ON_ERROR_STOP=1', '-d', dsn, '-c', text]);
        // The error of the program itself repeats the statement.
        const { stdout } = await run.catch((error) => { throw new Error(error.stderr); });
        return stdout.trim().split('\n').at(-1);
    }

    /** Sends a command to the program of the server: `stop immediate` or `start`. */
    async tell(command) {
        this.child.stdin.write(`${command}\n`);
        const answer = await this.line();
        if (answer !== 'ok') throw new Error(answer);
    }

    async end() {
        this.ending = true;
        this.child.stdin.end();
        await once(this.child, 'close');
    }
}

/** A receiver whose status can be switched. */
export class Receiver {
    static async start(status = 200) {
        const receiver = new Receiver();
        receiver.status = status;
        receiver.arrived = 0;
        receiver.server = createServer((request, response) => {
            request.resume().on('end', () => {
                receiver.arrived += 1;
                response.writeHead(receiver.status, { 'content-type': 'text/html' });
                response.end(receiver.answer ?? 'ok');
            });
        });
        receiver.server.listen(0, '127.0.0.1');
        await once(receiver.server, 'listening');
        receiver.url = `http://127.0.0.1:${receiver.server.address().port}/hook`;
        return receiver;
    }

    end() {
        this.server.closeAllConnections();
        this.server.close();
    }
}

/** A dashboard. */
export class Dashboard {
    static async start(dsn, ...options) {
        const dashboard = new Dashboard();
        dashboard.child = spawn(join(programs, 'outbox'), ['serve', '--listen', '127.0.0.1:0', ...options], {
            env: { ...process.env, OUTBOX_SERVE_TOKEN: TOKEN, DATABASE_URL: dsn },
            stdio: ['ignore', 'pipe', 'inherit'],
        });
        const said = await lines(dashboard.child.stdout)();
        dashboard.url = said.slice(said.indexOf('http')).replace(/\/$/, '');
        return dashboard;
    }

    async end() {
        this.child.kill('SIGTERM');
        await once(this.child, 'close');
    }
}

export async function browse() {
    // Chromium has no sandbox for root, the user of many containers, in which /dev/shm is small, too.
    const args = ['--disable-dev-shm-usage', ...(process.getuid() === 0 ? ['--no-sandbox'] : [])];
    return chromium.launch({ executablePath: join(root, '.cache/chromium/run'), args });
}

/** Logs a person in, in a browser profile of their own. What should never happen on a page is listed in `page.wrong`. */
export async function logIn(browser, dashboard, how, name = 'Ann') {
    const context = await browser.newContext({ ...how, baseURL: dashboard.url });
    context.setDefaultTimeout(45_000);
    const page = await openTab(context);
    await page.goto('/login');
    await page.getByLabel('Your name').fill(name);
    await page.getByLabel('Token').fill(process.env.OUTBOX_SERVE_TOKEN ?? TOKEN);
    await page.getByRole('button', { name: 'Log in' }).click();
    await page.waitForURL('**/');
    return page;
}

/** Opens one more tab of the same person. */
export async function openTab(context) {
    const page = await context.newPage();
    page.wrong = [];
    page.on('dialog', (dialog) => {
        page.wrong.push(`dialog: ${dialog.message()}`);
        dialog.dismiss();
    });
    page.on('pageerror', (error) => page.wrong.push(`error: ${error}`));
    page.on('console', (message) => {
        // A page of the status 4xx or 5xx is said by the browser as well.
        if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) page.wrong.push(`console: ${message.text()}`);
    });
    return page;
}
