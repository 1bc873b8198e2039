import js from '@eslint/js';
import { defineConfig } from 'eslint/config';
import svelte from 'eslint-plugin-svelte';
import globals from 'globals';
import ts from 'typescript-eslint';
import svelteConfig from './svelte.config.js';

export default defineConfig(
  { ignores: ['dist/', 'dist-e2e/', 'test-results/', 'playwright-report/', 'src/lib/backend/bindings.ts'] },
  { linterOptions: { reportUnusedDisableDirectives: 'error' } },
  js.configs.recommended,
  ts.configs.recommendedTypeChecked,
  svelte.configs.recommended,
  svelte.configs.prettier,
  {
    languageOptions: {
      globals: { ...globals.browser, ...globals.node },
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname, extraFileExtensions: ['.svelte'] }
    },
    rules: {
      // TypeScript knows which names there are.
      'no-undef': 'off',
      // The fakes and callbacks of tests answer at once what is asked for as a promise.
      '@typescript-eslint/require-await': 'off'
    }
  },
  {
    // A call to the program rejects with a plain object, and so does its twin.
    files: ['src/lib/backend/fake/*.ts'],
    rules: { '@typescript-eslint/only-throw-error': 'off' }
  },
  {
    files: ['**/*.svelte', '**/*.svelte.ts'],
    languageOptions: { parserOptions: { parser: ts.parser, svelteConfig } }
  },
  {
    files: ['**/*.svelte'],
    // The parser does not see the types of other components, so that what they hand over is `any`: svelte-check does.
    rules: {
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
      '@typescript-eslint/no-unnecessary-type-assertion': 'off',
      // A `$derived` that keeps its last value for the next time.
      'no-useless-assignment': 'off'
    }
  },
  {
    files: ['**/*.js', '**/*.mjs'],
    extends: [ts.configs.disableTypeChecked]
  }
);
