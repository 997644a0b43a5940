// Builds the client, runs all test files, CLIENT_JOBS (3) at a time, and ends with a line that scripts/test reads.
import { execFileSync, spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('..', import.meta.url));
// scripts/test has built the program that starts servers.
if (!process.env.OUTBOX_SERVE) {
    execFileSync('cargo', ['build', '--quiet', '--release', '-p', 'outbox-harness', '--bin', 'serve'], { cwd: `${here}../..`, stdio: 'inherit' });
}
execFileSync(process.execPath, [`${here}scripts/build.mjs`], { stdio: 'inherit' });

let passed = 0;
let failed = 0;
const named = process.argv.slice(2);
const files = readdirSync(`${here}test`).filter((name) => name.endsWith('.test.mjs') && (named.length === 0 || named.some((part) => name.includes(part))));

async function run(file) {
    const lines = [];
    const child = spawn(process.execPath, ['--test', '--test-reporter=tap', `${here}test/${file}`], { cwd: here, stdio: ['ignore', 'pipe', 'inherit'] });
    const start = Date.now();
    // A test file that hangs is killed after 1,200 s and counts as a failure.
    const timer = setTimeout(() => child.kill('SIGKILL'), 1_200_000);
    child.stdout.setEncoding('utf8').on('data', (text) => lines.push(text));
    const code = await new Promise((resolve) => child.once('close', resolve));
    clearTimeout(timer);
    const output = lines.join('');
    const count = (what) => Number(new RegExp(`^# ${what} (\\d+)$`, 'm').exec(output)?.[1] ?? 0);
    passed += count('pass');
    const bad = Math.max(count('fail') + count('cancelled'), code === 0 ? 0 : 1);
    failed += bad;
    console.log(`${file}: ${count('pass')} passed, ${bad} failed, ${Math.round((Date.now() - start) / 1000)} s`);
    if (bad > 0) console.log(output);
}

// Each file has a server of its own, and waits more than it computes.
files.sort();
const next = async () => {
    while (files.length > 0) await run(files.shift());
};
await Promise.all(Array.from({ length: Number(process.env.CLIENT_JOBS ?? 3) }, next));
console.log(`test result: ${failed === 0 && passed > 0 ? 'ok' : 'FAILED'}. ${passed} passed; ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
