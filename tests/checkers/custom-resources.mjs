// Custom resources against their published definitions: reads a JSON list of them, prints what is wrong, exits 1 if
// anything is. The models know values (required, patterns, ranges); their types know names, so the compiler finds a
// misspelt field, which the models would let pass.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const packages = {
  'gateway.networking.k8s.io': 'gateway-api',
  'keda.sh': 'keda',
  'monitoring.coreos.com': 'prometheus-operator',
};

const resources = JSON.parse(readFileSync(0, 'utf8'));
const complaints = [];
let source = '';
for (const [index, resource] of resources.entries()) {
  const { apiVersion, kind } = resource;
  const module = `@kubernetes-models/${packages[apiVersion.split('/')[0]]}/${apiVersion}/${kind}`;
  const model = new (await import(module))[kind](resource);
  try {
    model.validate();
  } catch (error) {
    complaints.push(`${kind}: ${error.message}`);
  }
  source += `import type { I${kind} as T${index} } from '${module}'; export const r${index}: T${index} = `;
  source += `${JSON.stringify(resource, null, 1)};\n`;
}

// The file exists only here, beside node_modules.
const path = fileURLToPath(new URL('resources.ts', import.meta.url));
const options = {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  types: [],
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  target: ts.ScriptTarget.ES2022,
};
const host = ts.createCompilerHost(options);
const { getSourceFile, fileExists } = host;
host.fileExists = (name) => name === path || fileExists.call(host, name);
host.getSourceFile = (name, ...rest) =>
  name === path ? ts.createSourceFile(name, source, options.target) : getSourceFile.call(host, name, ...rest);
for (const { messageText, start, file } of ts.getPreEmitDiagnostics(ts.createProgram([path], options, host))) {
  const line = file && start !== undefined ? source.slice(source.lastIndexOf('\n', start) + 1).split('\n', 1)[0] : '';
  complaints.push(`${ts.flattenDiagnosticMessageText(messageText, '\n')} ${line.trim()}`.trim());
}

for (const complaint of complaints) console.error(complaint);
console.log(`${resources.length} checked, ${complaints.length} complaints`);
process.exitCode = complaints.length === 0 ? 0 : 1;
