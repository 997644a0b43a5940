// Builds dist/ from src/ (tsc), the ESM entry points, and the native part (cargo) into native/.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('..', import.meta.url));
const run = (program, args, cwd = here) => execFileSync(program, args, { cwd, stdio: 'inherit' });

if (!process.argv.includes('--no-native')) {
    run('cargo', ['build', '--quiet', '--release', '-p', 'pg-outbox-node'], `${here}../..`);
    const metadata = execFileSync('cargo', ['metadata', '--format-version', '1', '--no-deps', '--offline'], {
        cwd: `${here}../..`,
        maxBuffer: 1 << 28,
    });
    const { target_directory: target } = JSON.parse(metadata);
    const library = { linux: 'libpg_outbox_node.so', darwin: 'libpg_outbox_node.dylib', win32: 'pg_outbox_node.dll' }[process.platform];
    const glibc = process.report.getReport().header.glibcVersionRuntime;
    const libc = process.platform === 'linux' ? (glibc ? '-gnu' : '-musl') : '';
    const addon = `${here}native/pg-outbox.${process.platform}-${process.arch}${libc}.node`;
    // Removed first, so that a process that has loaded the old addon keeps it.
    rmSync(addon, { force: true });
    copyFileSync(`${target}/release/${library}`, addon);
    // Users of the package do not need debug information.
    if (process.platform === 'linux') run('strip', ['--strip-unneeded', addon]);
}

rmSync(`${here}dist`, { recursive: true, force: true });
run(process.execPath, [`${here}node_modules/typescript/bin/tsc`, '-p', here]);
// The ES modules only re-export the CommonJS modules, so there is one instance of each module for both kinds of import.
for (const entry of ['index', 'testing']) {
    writeFileSync(`${here}dist/${entry}.mjs`, `export * from './${entry}.js';\n`);
    writeFileSync(`${here}dist/${entry}.d.mts`, `export * from './${entry}.js';\n`);
}
if (!existsSync(`${here}LICENSE`)) copyFileSync(`${here}../../LICENSE`, `${here}LICENSE`);
if (!readdirSync(`${here}native`).some((file) => file.endsWith('.node'))) throw new Error('no native part was built');
