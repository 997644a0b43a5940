// The dashboard in a browser: each screen and action, as a role that acts and as one that only sees, with hostile content in every
// field, wide and light, narrow and dark, judged by axe-core; two tabs, the way back, and a database that is lost and comes back.
import assert from 'node:assert/strict';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test as run } from 'node:test';

import { Dashboard, Database, NARROW, Receiver, WIDE, browse, logIn, openTab, until } from './stage.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

// Runs as a script if it is markup, turns the text around, has a character that does not show, and is longer than any column.
const HOSTILE = `<script>window.hacked=1</script>"'><img src=x onerror="window.hacked=1">\u202e\u2066gpj\u200b`;
const LONG = `${HOSTILE}${'w'.repeat(20_000)}`;
const NAME = `<b onclick="window.hacked=1">it's</b>\u202e`;

// A test that hangs fails, and says which one it is.
const test = (name, work) => run(name, { timeout: 300_000 }, work);

let database, receiver, broken, acts, sees, browser;
let wide, narrow;
const known = {};

/** A text as a value of SQL. */
const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
const encoded = encodeURIComponent;

before(async () => {
    [database, receiver, broken, browser] = await Promise.all([Database.start(), Receiver.start(), Receiver.start(500), browse()]);
    broken.answer = HOSTILE;
    const name = quoted(NAME);
    const short = quoted(HOSTILE);
    await database.sql(`
        select outbox.create_endpoint('hooks', '${receiver.url}?key=hidden-key');
        select outbox.create_endpoint(${name}, '${broken.url}?key=hidden-key');
        select outbox.subscribe('hooks', array['push.#'], 'hooks');
        select outbox.subscribe(${name}, array['bad.#'], ${name}, max_attempts => 1);
        select outbox.ensure_subscription('work', array['job.#']);
        select outbox.enqueue_many('job.run', (select array_agg(to_jsonb(i)) from generate_series(1, 12) i));
        select outbox.append('order-' || ${short}, 'order.created', '{}');
        select outbox.cursor_record_error(${quoted('<script>window.hacked=1</script>')}, left(${quoted(LONG)}, 2000), error_position => 1);
        select outbox.saga_save('checkout', ${short}, '{}', 0, 'failed', failure_reason => ${short});
        select outbox.relay_heartbeat('kafka', 'relay kafka', 'kafka', 'a', 'running', 0, '1 h')`);
    const content = `key => left(${short}, 100), tenant => left(${short}, 100), aggregate_type => left(${short}, 100),
        aggregate_id => left(${short}, 100), publisher => left(${short}, 100), headers => jsonb_build_object('x-a', 'b'),
        metadata => jsonb_build_object('correlation_id', left(${short}, 200), 'note', left(${quoted(LONG)}, 9000))`;
    known.pushed = await database.sql(`select outbox.enqueue('push.it', to_jsonb(${quoted(LONG)}::text), ${content})`);
    known.bad = await database.sql(`select outbox.enqueue('bad.it', to_jsonb(${quoted(LONG)}::text), ${content})`);
    await database.sql(`select outbox.replay('hooks', rate => 1, filter => jsonb_build_object('tenant', jsonb_build_array(left(${short}, 100))))`);
    await until('the jobs can be claimed', async () => (await database.sql(`
        select count(outbox.dead(c.lease, array[c.delivery_id], left(${quoted(LONG)}, 3000)))
        from outbox.claim('work', left(${short}, 100), max_messages => 10) c`)) !== '0' &&
        (await database.sql(`select count(*) >= 10 from outbox.dead_letter`)) === 't');
    await database.sql(`select c.lease from outbox.claim('work', left(${short}, 100)) c`);
    await until('messages have arrived', async () => receiver.arrived > 0 && (await database.sql(
        `select count(*) from outbox.dead_letter where message_id = ${known.bad}`)) === '1');
    [acts, sees] = await Promise.all([Dashboard.start(database.of('shop', 'acts')), Dashboard.start(database.of('shop', 'sees'))]);
    [wide, narrow] = await Promise.all([logIn(browser, acts, WIDE), logIn(browser, sees, NARROW)]);
});

after(async () => {
    await browser?.close();
    await Promise.all([acts?.end(), sees?.end()]);
    receiver?.end();
    broken?.end();
    await database?.end();
});

/** The pages, and a text that each shows. */
function screens() {
    return {
        '/': 'Dispatcher',
        '/subscriptions': 'work',
        [`/subscription?name=${encoded(NAME)}`]: 'bad.#',
        '/endpoints': 'hooks',
        [`/endpoint?name=${encoded(NAME)}`]: 'Breaker',
        '/dead-letters': 'rejected',
        '/dead-letter?id=1': 'Class of the last error',
        '/messages': 'push.it',
        [`/messages?key=${encoded(HOSTILE.slice(0, 100))}`]: 'bad.it',
        [`/message?id=${known.pushed}&content=1`]: 'Webhook id',
        [`/message?id=${known.bad}&content=1`]: 'Attempts',
        '/tail': 'push.it',
        '/workers': 'kafka',
        '/replay?id=1': 'Read to position',
        '/sagas': 'checkout',
        [`/saga?type=checkout&id=${encoded(HOSTILE)}`]: 'Correlation id',
        '/streams': 'order-',
        [`/stream?name=${encoded(`order-${HOSTILE}`)}`]: 'Stored events',
        '/storage': 'Maintenance',
        '/nothing': 'there is no such page',
    };
}

/** Nothing of the content ran, turned the text around, or was left out of sight. */
async function harmless(page, path) {
    assert.deepEqual(page.wrong, [], path);
    assert.equal(await page.evaluate(() => window.hacked), undefined, `${path}: content ran`);
    const text = await page.evaluate(() => document.body.innerText);
    assert.doesNotMatch(text, /[\u200b\u202e\u2066]/, `${path}: characters that do not show`);
}

/** axe-core finds nothing, and nothing but tables scrolls sideways. */
async function accessible(page, path) {
    const found = await page.evaluate(`${axe}; axe.run(document, { resultTypes: ['violations'] })`);
    const said = found.violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => node.html).join(' ')}`);
    assert.deepEqual(said, [], path);
    const [needed, width] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(needed <= width, `${path} is ${needed} wide on a screen of ${width}`);
}

test('every screen shows its content as text, and axe-core finds nothing', async () => {
    for (const [path, shown] of Object.entries(screens())) {
        for (const page of [wide, narrow]) {
            await page.goto(path);
            await assertShown(page, shown, path);
            await harmless(page, path);
            await accessible(page, path);
        }
    }
    const logInPage = await openTab(await browser.newContext({ ...NARROW, baseURL: acts.url }));
    await logInPage.goto('/login');
    await accessible(logInPage, '/login');
    await logInPage.context().close();
});

async function assertShown(page, text, path = page.url()) {
    const all = await page.locator('main').innerText();
    assert.ok(all.includes(text), `${path}: "${text}" is not in ${all.slice(0, 2000)}`);
}

/** Presses a button, and waits for the page that comes. */
async function press(page, name, within = page) {
    const button = within.getByRole('button', { name, exact: typeof name === 'string' });
    await Promise.all([page.waitForNavigation(), button.click()]);
}

test('a role that only sees has no button of an action', async () => {
    for (const path of Object.keys(screens())) {
        await narrow.goto(path);
        assert.equal(await narrow.locator('form[action^="/do/"]').count(), 0, path);
    }
});

test('subscriptions are paused and resumed, also with a name that is markup', async () => {
    await wide.goto('/subscriptions');
    await press(wide, /^Pause .*it's/);
    await assertShown(wide, 'is paused.');
    await harmless(wide, 'pause');
    assert.equal(await database.sql(`select paused from outbox.subscription where name = ${quoted(NAME)}`), 't');
    await press(wide, /^Resume/);
    assert.equal(await database.sql(`select paused from outbox.subscription where name = ${quoted(NAME)}`), 'f');
});

test('an endpoint is tested, disabled, enabled and gets a new secret', async () => {
    const path = `/endpoint?name=${encoded(NAME)}`;
    await wide.goto(path);
    await press(wide, /^Send test/);
    await press(wide, 'Send test');
    await assertShown(wide, '500');
    await harmless(wide, 'test');
    await wide.goto(path);
    await press(wide, /^Disable/);
    await wide.getByLabel('Reason').fill(HOSTILE);
    await accessible(wide, 'the question');
    await press(wide, 'Disable');
    await assertShown(wide, 'is disabled.');
    await harmless(wide, 'disable');
    await press(wide, /^Enable/);
    await assertShown(wide, 'is enabled.');
    await press(wide, /^Rotate secret/);
    await press(wide, 'Rotate secret');
    const secret = await wide.locator('pre').innerText();
    assert.equal(await database.sql(`select count(*) from outbox.endpoint_secret where secret = ${quoted(secret)}`), '1');
    await accessible(wide, 'the secret');
    await wide.goto(path);
    assert.ok(!(await wide.content()).includes(secret));
});

test('dead letters are requeued, resolved and ignored, one by one and all that match', async () => {
    for (const [id, label, state] of [[1, 'Resolve', 'resolved'], [2, 'Ignore', 'ignored']]) {
        await wide.goto(`/dead-letter?id=${id}`);
        await press(wide, new RegExp(`^${label}`));
        await wide.getByLabel('Reason').fill(HOSTILE);
        await press(wide, label);
        await assertShown(wide, state);
        await harmless(wide, label);
    }
    await wide.goto('/dead-letter?id=3');
    await press(wide, /^Requeue/);
    await assertShown(wide, 'is requeued.');
    const open = Number(await database.sql(`select count(*) from outbox.dead_letter where resolution = 'open' and reason = 'rejected'`));
    await wide.goto('/dead-letters');
    await press(wide, /^Requeue all that match work/);
    await assertShown(wide, `${open} dead letters match now`);
    await accessible(wide, 'the count');
    await press(wide, 'Requeue all that match');
    await assertShown(wide, `${open} dead letters were requeued`);
    assert.equal(await database.sql(`select count(*) from outbox.dead_letter where resolution = 'open' and reason = 'rejected'`), '0');
});

test('a message is sent again and cancelled', async () => {
    const before = receiver.arrived;
    await wide.goto(`/message?id=${known.pushed}`);
    await press(wide, 'Resend hooks');
    await press(wide, 'Resend');
    await assertShown(wide, 'is sent once more.');
    await until('it arrives', async () => receiver.arrived > before);
    const waiting = await database.sql(`select outbox.enqueue('job.later', '1', deliver_at => now() + interval '1 day')`);
    await until('it waits', async () => (await database.sql(`select count(*) from outbox.delivery where message_id = ${waiting}`)) === '1');
    await wide.goto(`/message?id=${waiting}`);
    await press(wide, /^Cancel/);
    await wide.getByLabel('Reason').fill(HOSTILE);
    await press(wide, 'Cancel');
    await assertShown(wide, 'is cancelled.');
    assert.equal(await database.sql(`select count(*) from outbox.cancelled where message_id = ${waiting}`), '1');
});

test('a message is erased with a reason, which the browser asks for', async () => {
    await wide.goto(`/message?id=${known.bad}`);
    await press(wide, /^Erase/);
    await wide.getByRole('button', { name: 'Erase', exact: true }).click();
    assert.equal(await wide.evaluate(() => document.querySelector('#because').validity.valueMissing), true);
    await wide.getByLabel('Reason').fill(HOSTILE);
    await press(wide, 'Erase');
    await assertShown(wide, 'is erased.');
    await harmless(wide, 'erase');
    assert.equal(await database.sql(`select payload is null from outbox.message where id = ${known.bad}`), 't');
});

test('a cursor is reset with a reason', async () => {
    await wide.goto('/workers');
    await press(wide, /^Reset/);
    await wide.getByLabel('Position').fill('x');
    await wide.getByLabel('Reason').fill('read it again');
    await wide.getByRole('button', { name: 'Reset', exact: true }).click();
    assert.equal(await wide.evaluate(() => document.querySelector('#position').validity.patternMismatch), true);
    await wide.getByLabel('Position').fill('0');
    await accessible(wide, 'the question of a reset');
    await press(wide, 'Reset');
    await assertShown(wide, 'is reset.');
    await harmless(wide, 'reset');
    assert.equal(await database.sql(`select position from outbox.cursor where stream = 'outbox'`), '0');
});

test('a replay is begun, shows its progress, and is cancelled', async () => {
    await wide.goto('/subscription?name=work');
    await press(wide, 'Replay work');
    await wide.getByLabel('From position').fill('1');
    await wide.getByLabel('Messages per second').fill('1');
    await accessible(wide, 'the question of a replay');
    await press(wide, 'Replay');
    await assertShown(wide, 'has begun.');
    assert.ok(await wide.getByRole('progressbar').count() === 1);
    await press(wide, /^Cancel replay/);
    await press(wide, 'Cancel replay');
    await assertShown(wide, 'is cancelled.');
});

test('a bulk action goes on by itself, says how far it is, and is stopped', async () => {
    const open = async () => Number(await database.sql(`select count(*) from outbox.dead_letter d
        join outbox.subscription s on s.id = d.subscription_id where d.resolution = 'open' and s.name = 'work'`));
    await database.sql(`select outbox.enqueue_many('job.run', (select array_agg(to_jsonb(i)) from generate_series(1, 1300) i))`);
    await until('all are dead', async () => {
        await database.sql(`select count(outbox.dead(c.lease, array[c.delivery_id], 'many'))
            from outbox.claim('work', 'w', max_messages => 1000) c`);
        return await open() >= 1300;
    });
    const all = await open();
    // The second part is held up on its way, so that it does not begin before the button is found.
    const page = await openTab(wide.context());
    let holding = true;
    let asked = 0;
    await page.route('**/do/requeue-all', async (route) => {
        asked += 1;
        if (asked > 2) await until('it may go on', async () => !holding);
        await route.continue().catch(() => {});
    });
    await page.goto('/dead-letters');
    await press(page, /^Requeue all that match work/);
    await press(page, 'Requeue all that match');
    assert.equal(await page.getByRole('progressbar').getAttribute('max'), String(all));
    await page.getByRole('button', { name: 'Stop', exact: true }).click();
    await assertShown(page, 'Stopped.');
    await accessible(page, 'stopped');
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    assert.equal(await open(), all - 500);
    // The button goes on, and the parts after it come by themselves.
    holding = false;
    await press(page, 'Requeue all that match');
    await page.getByText(', 0 of those that matched are left').waitFor({ timeout: 30_000 });
    assert.equal(await open(), 0);
    assert.deepEqual(page.wrong, []);
    await page.close();
});

test('the live page shows what comes, and pauses', async () => {
    const page = await openTab(narrow.context());
    await page.clock.install();
    await page.goto('/tail');
    await database.sql(`select outbox.enqueue('live.first', '1')`);
    await page.clock.fastForward(1_000);
    await page.getByText('live.first').waitFor();
    await page.getByRole('button', { name: 'Pause renewing' }).click();
    await database.sql(`select outbox.enqueue('live.second', '1')`);
    await page.clock.fastForward(10_000);
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(await page.getByText('live.second').count(), 0);
    await page.getByRole('button', { name: 'Renew again' }).click();
    await page.clock.fastForward(1_000);
    await page.getByText('live.second').waitFor();
    // Nobody has moved for five minutes.
    await page.clock.fastForward(301_000);
    await page.getByRole('button', { name: 'Renew again' }).waitFor();
    await page.close();
});

test('the content of a message is hidden until somebody asks for it', async () => {
    await wide.goto(`/message?id=${known.pushed}`);
    assert.ok(!(await wide.content()).includes('wwwwwwwwww'.repeat(50)));
    await wide.getByRole('link', { name: 'Show the content and the answers' }).click();
    await wide.getByRole('region', { name: 'Payload' }).waitFor();
    assert.ok((await wide.content()).includes('wwwwwwwwww'.repeat(50)));
});

test('the way back shows pages and does nothing again', async () => {
    await wide.goto('/subscriptions');
    await press(wide, 'Pause work');
    await assertShown(wide, 'is paused.');
    await wide.goBack();
    await wide.goForward();
    await assertShown(wide, 'paused');
    const control = `select count(*) from outbox.message where topic = 'outbox.control' and payload ->> 'paused' = 'true'
        and payload ->> 'name' = 'work'`;
    assert.equal(await database.sql(control), '1');
    await wide.goto('/subscription?name=work');
    await press(wide, 'Resume work');
});

test('a tab that is older than what was done says so', async () => {
    await database.sql(`select outbox.enqueue('job.run', '1')`);
    await until('it is dead', async () => (await database.sql(`select count(outbox.dead(c.lease, array[c.delivery_id], 'old'))
        from outbox.claim('work', 'w', max_messages => 5000) c`)) !== '0');
    const letter = await database.sql(`select max(id) from outbox.dead_letter where resolution = 'open' and last_error = 'old'`);
    const tab = await openTab(wide.context());
    for (const page of [tab, wide]) await page.goto(`/dead-letter?id=${letter}`);
    await press(wide, /^Requeue/);
    await assertShown(wide, 'is requeued.');
    await press(tab, /^Requeue/);
    await assertShown(tab, 'This cannot be done now');
    await accessible(tab, 'a conflict');
    await tab.close();
});

test('a tab of a session that has ended does nothing, and the way back shows nothing', async () => {
    const page = await logIn(browser, acts, WIDE, 'Bob');
    const tab = await openTab(page.context());
    // A question does not renew itself, and so does not notice.
    await tab.goto('/subscription?name=work');
    await press(tab, 'Replay work');
    await page.goto('/storage');
    await press(page, 'Log out');
    await page.getByLabel('Token').waitFor();
    await page.goBack();
    await page.getByLabel('Token').waitFor();
    const begun = await database.sql('select count(*) from outbox.replay');
    await press(tab, 'Replay');
    assert.match(await tab.locator('body').innerText(), /nobody is logged in/);
    assert.equal(await database.sql('select count(*) from outbox.replay'), begun);
    await page.context().close();
});

test('one page says which of several databases is not ok', async () => {
    const file = join(tmpdir(), `outbox-databases-${process.pid}`);
    const lost = new URL(database.of('shop', 'acts'));
    lost.port = '1';
    writeFileSync(file, `# name, connection string\nshop ${database.of('shop', 'acts')}\nlost ${lost.href}\n`, { mode: 0o600 });
    const several = await Dashboard.start('', '--databases', file);
    try {
        const page = await logIn(browser, several, NARROW);
        await assertShown(page, 'not reachable');
        await accessible(page, 'databases');
        await page.getByRole('link', { name: 'shop' }).click();
        await page.getByRole('link', { name: 'Subscriptions' }).click();
        await press(page, 'Pause work');
        await assertShown(page, 'is paused.');
        await press(page, 'Resume work');
        assert.ok(page.url().includes('/db/shop/'));
        await page.getByRole('link', { name: 'All databases' }).click();
        await page.getByRole('link', { name: 'lost' }).click();
        await assertShown(page, 'The database cannot be reached');
        await harmless(page, 'databases');
        await page.context().close();
    } finally {
        rmSync(file);
        await several.end();
    }
});

test('a page renews itself unless that is paused, and the keyboard is enough', async () => {
    const page = await openTab(narrow.context());
    await page.clock.install();
    await page.goto('/subscriptions');
    await database.sql(`select outbox.subscribe('came-later', array['later'])`);
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Skip to the content');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => location.hash), '#content');
    const pause = page.getByRole('button', { name: 'Pause renewing' });
    await pause.focus();
    await page.keyboard.press('Enter');
    await page.clock.fastForward(20_000);
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.ok(!(await page.locator('main').innerText()).includes('came-later'));
    await page.getByRole('button', { name: 'Renew again' }).press('Enter');
    await page.clock.fastForward(5_000);
    await page.getByRole('link', { name: 'came-later' }).waitFor();
    await accessible(page, 'a renewed page');
    await page.close();
});

test('a database that is lost is said, and the page comes back with it', async () => {
    const page = await openTab(wide.context());
    await page.clock.install();
    await page.goto('/subscriptions');
    await database.tell('stop immediate');
    await page.clock.fastForward(5_000);
    await page.getByRole('heading', { name: 'The database cannot be reached' }).waitFor();
    await accessible(page, 'without a database');
    await narrow.goto('/dead-letters');
    await assertShown(narrow, 'The database cannot be reached');
    await accessible(narrow, 'without a database');
    await database.tell('start');
    await until('the page is back', async () => {
        await page.clock.fastForward(5_000);
        await new Promise((resolve) => setTimeout(resolve, 100));
        return (await page.locator('main').innerText()).includes('work');
    });
    await page.close();
});
