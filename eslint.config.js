import js from '@eslint/js';
import ts from 'typescript-eslint';

/**
 * Lint rules that are memory: each forbidden thing names what it cost us or others.
 * General style is prettier's; the layer map is test/layers.test.ts.
 */
const childProcess = ['child_process', 'node:child_process'].map((name) => ({
  name,
  message:
    'spawn through a launch plan: libuv forks, which copies the page tables (over 100 ms for a large engine), ' +
    'and the child inherits whatever namespaces, cgroup and fds we happen to have',
}));

const syntax = [
  {
    selector: 'CallExpression[callee.property.name=/^(waitpid|wait4)$/]',
    message:
      'reap by pidfd: waitpid(-1) steals the exit status of other children (child_process reports code null)',
  },
  {
    selector:
      "CallExpression[callee.property.name=/^(includes|startsWith|endsWith|indexOf|match|search)$/][callee.object.property.name='message']",
    message: 'decide by code or errno, never by the text of a message: texts change between versions',
  },
  {
    selector: "CallExpression[callee.property.name='test'][arguments.0.property.name='message']",
    message: 'decide by code or errno, never by the text of a message: texts change between versions',
  },
];

const entryOnly = [
  {
    object: 'process',
    property: 'exit',
    message: 'only main.ts exits: a library that exits kills every pod of this host',
  },
  { object: 'process', property: 'argv', message: 'only main.ts reads argv' },
  { object: 'process', property: 'env', message: 'only main.ts reads the environment; pass what is needed' },
];

export default ts.config(
  {
    ignores: [
      'build/',
      'dist/',
      'src/gen/',
      'test/gen/',
      'node_modules/',
      'coverage/',
      'reports/',
      'bench/results/',
      'test/bundles/*/',
    ],
  },
  js.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [ts.configs.recommendedTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      // An async function without await is how an interface method answers at once.
      '@typescript-eslint/require-await': 'off',
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      'no-eval': 'error',
      'no-new-func': 'error',
      'no-constant-condition': ['error', { checkLoops: 'allExceptWhileTrue' }],
      // Text from containers is full of control characters; that is what these expressions look for.
      'no-control-regex': 'off',
    },
  },
  {
    files: ['src/**/*.ts'],
    ignores: ['src/**/*.test.ts', 'src/**/testing/**'],
    rules: {
      'no-restricted-imports': ['error', { paths: childProcess }],
      'no-restricted-syntax': ['error', ...syntax],
      'no-restricted-properties': ['error', ...entryOnly],
      'no-console': 'error',
    },
  },
  {
    files: ['src/**/main.ts'],
    rules: { 'no-restricted-properties': 'off' },
  },
  {
    // The command line prints; that is its job.
    files: ['src/cli/**/*.ts', 'src/**/main.ts'],
    rules: { 'no-console': 'off' },
  },
  {
    // Decoded JSON is `any` until checked, and tests poke at hostile values on purpose.
    files: ['**/*.test.ts', 'test/**/*.ts', 'bench/**/*.ts'],
    rules: {
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
      '@typescript-eslint/unbound-method': 'off',
    },
  },
  {
    files: ['**/*.mjs', '**/*.js', '**/*.cjs'],
    languageOptions: {
      globals: {
        process: 'readonly',
        console: 'readonly',
        Buffer: 'readonly',
        URL: 'readonly',
        performance: 'readonly',
        setTimeout: 'readonly',
        clearTimeout: 'readonly',
      },
    },
  },
);
