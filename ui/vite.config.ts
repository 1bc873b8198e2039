/// <reference types="vitest/config" />
import { fileURLToPath } from 'node:url';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig, type Plugin } from 'vite';

// The preview server sends what the desktop window enforces, so that a violation shows in a browser test.
const contentSecurityPolicy = [
  "default-src 'self'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "font-src 'self'",
  "connect-src 'self'",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'none'"
].join('; ');

/** Every web view that Tauri runs on reads woff2; KaTeX's older formats would only make the program bigger. */
const woff2Only: Plugin = {
  name: 'woff2-only',
  enforce: 'pre',
  transform: (code, id) => (id.includes('katex.min.css') ? code.replace(/,url\([^)]*\.(?:woff|ttf)\) format\("[a-z]+"\)/g, '') : null)
};

/** Another one lets two clones run the browser tests at once. */
const E2E_PORT = Number(process.env.OCTET_E2E_PORT ?? 4173);

export default defineConfig(({ mode }) => ({
  plugins: [svelte(), woff2Only],
  resolve: {
    alias: { $lib: fileURLToPath(new URL('./src/lib', import.meta.url)) },
    conditions: mode === 'test' ? ['browser'] : undefined
  },
  clearScreen: false,
  server: { port: 1420, strictPort: true },
  preview: { port: E2E_PORT, strictPort: true, headers: { 'Content-Security-Policy': contentSecurityPolicy } },
  build: {
    target: ['es2022', 'safari16.4', 'chrome111'],
    // A data: address would need a hole in the policy.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 700
  },
  test: {
    environment: 'jsdom',
    include: ['src/**/*.spec.ts'],
    setupFiles: ['./vitest-setup.ts'],
    restoreMocks: true
  }
}));
