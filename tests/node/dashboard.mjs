// A dashboard against the types that Grafana itself publishes: of the dashboard, and of each kind of panel's own options.
// A field that is unknown, misspelt or of another type is an error of the TypeScript compiler. What the queries answer is
// another test's business.
import { readFileSync } from 'node:fs';
import ts from 'typescript';

const dashboard = readFileSync(process.argv[2], 'utf8');
const kinds = { Stat: 'stat', TimeSeries: 'timeseries', Heatmap: 'heatmap', StateTimeline: 'state-timeline', Table: 'table' };
const imports = Object.keys(kinds).map((kind) => {
  const folder = `${kind.toLowerCase()}/panelcfg/x/${kind}PanelCfg_types.gen`;
  return `import type * as ${kind} from '@grafana/schema/dist/esm/raw/composable/${folder}';`;
});
const source = `
import type * as grafana from '@grafana/schema';
${imports.join('\n')}
// Values of enums are plain strings in a file.
type Json<T> = T extends string ? \`\${T}\`
  : T extends (infer Item)[] ? Json<Item>[]
  : T extends object ? { [Key in keyof T]: Json<T[Key]> } : T;
type Target = { refId: string; datasource: grafana.DataSourceRef; expr: string; legendFormat: string; instant: boolean;
  range: boolean; format?: 'heatmap' | 'table' };
// One series drawn in another way, as a limit is.
type Override<Custom> = { matcher: { id: 'byName'; options: string }; properties: ({ id: 'color'; value: grafana.FieldColor }
  | { [Key in keyof Custom & string]: { id: \`custom.\${Key}\`; value: Custom[Key] } }[keyof Custom & string])[] };
type Kind<Type, Options, Custom, Overrides = []> = Omit<grafana.Panel, 'type' | 'options' | 'targets' | 'fieldConfig'> & {
  type: Type; options: Partial<Options>; targets: Target[];
  fieldConfig: { defaults: Omit<grafana.FieldConfig, 'custom'> & { custom?: Partial<Custom> }; overrides: Overrides } };
type Lines = Kind<'timeseries', TimeSeries.Options, TimeSeries.FieldConfig, Override<Required<TimeSeries.FieldConfig>>[]>;
type Panel = grafana.RowPanel | Kind<'stat', Stat.Options, never> | Lines
  | Kind<'heatmap', Heatmap.Options, Heatmap.FieldConfig> | Kind<'table', Table.Options, Table.FieldConfig>
  | Kind<'state-timeline', StateTimeline.Options, StateTimeline.FieldConfig>;
type Annotation = Omit<grafana.AnnotationQuery, 'target'> & { target: { refId: string; expr: string }; titleFormat: string };
type Dashboard = Omit<grafana.Dashboard, 'panels' | 'annotations'> & { panels: Panel[]; annotations: { list: Annotation[] } };
export const dashboard: Json<Dashboard> = ${dashboard};
`;

const options = { strict: true, noEmit: true, skipLibCheck: true, types: [], target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler };
// In this folder, because the types are looked for from where the file would be.
const name = new URL('dashboard.ts', import.meta.url).pathname;
const host = ts.createCompilerHost(options);
const { getSourceFile, fileExists } = host;
host.fileExists = (file) => file === name || fileExists(file);
host.getSourceFile = (file, ...rest) =>
  file === name ? ts.createSourceFile(file, source, ts.ScriptTarget.ES2022) : getSourceFile(file, ...rest);
const complaints = ts.getPreEmitDiagnostics(ts.createProgram([name], options, host));
if (complaints.length > 0) {
  console.error(ts.formatDiagnostics(complaints, { ...host, getCanonicalFileName: (file) => file }));
  process.exit(1);
}
console.log('ok: the dashboard is what Grafana takes');
