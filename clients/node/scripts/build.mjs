// Builds dist/ from src/ with tsc, and the ES modules of the entry points.
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('..', import.meta.url));
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');

rmSync(`${here}dist`, { recursive: true, force: true });
execFileSync(process.execPath, [tsc, '-p', here], { cwd: here, stdio: 'inherit' });
// The ES modules only re-export the CommonJS modules, so there is one instance of each module for both kinds of import.
for (const entry of ['index', 'enqueue', 'events', 'testing']) {
    writeFileSync(`${here}dist/${entry}.mjs`, `export * from './${entry}.js';\n`);
    writeFileSync(`${here}dist/${entry}.d.mts`, `export * from './${entry}.js';\n`);
}
if (existsSync(`${here}dist/cli.js`)) chmodSync(`${here}dist/cli.js`, 0o755);
if (!existsSync(`${here}LICENSE`)) copyFileSync(`${here}../../LICENSE`, `${here}LICENSE`);
