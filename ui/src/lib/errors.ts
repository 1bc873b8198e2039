import type { ApiError } from '$lib/backend';

/** What a call rejected with, whatever it was. */
export function asApiError(thrown: unknown): ApiError {
  if (typeof thrown === 'object' && thrown !== null && 'code' in thrown && 'message' in thrown) return thrown as ApiError;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return { code: 'internal', message, hint: null, plan: null };
}
