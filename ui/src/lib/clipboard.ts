/**
 * Copies a text. WebKit allows it only in the press of a button itself, so a text that has yet to come is promised
 * then, and not waited for.
 */
export async function copyText(text: string | Promise<string>): Promise<void> {
  if (typeof text === 'string') return navigator.clipboard.writeText(text);
  const blob = text.then((value) => new Blob([value], { type: 'text/plain' }));
  // A failure is told by the write; nobody else waits for this one.
  blob.catch(() => undefined);
  await navigator.clipboard.write([new ClipboardItem({ 'text/plain': blob })]);
}
