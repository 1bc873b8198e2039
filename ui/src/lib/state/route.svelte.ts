/** Where the window is. A message that is named is scrolled to. */
export type Route =
  | { name: 'chat'; id: string | null; message: string | null }
  | { name: 'experts' }
  | { name: 'models' }
  | { name: 'settings' }
  | { name: 'trash' }
  | { name: 'welcome' };

export function parseRoute(hash: string): Route {
  const [name, id, message] = hash
    .replace(/^#?\/?/, '')
    .split('/')
    .map(decodeURIComponent);
  switch (name) {
    case 'experts':
    case 'models':
    case 'settings':
    case 'trash':
    case 'welcome':
      return { name };
    case 'chat':
      return { name: 'chat', id: id || null, message: message || null };
    default:
      return { name: 'chat', id: null, message: null };
  }
}

export function hrefOf(route: Route): string {
  if (route.name !== 'chat') return `#/${route.name}`;
  const parts = [route.id, route.message].filter((part) => part !== null).map(encodeURIComponent);
  return parts.length > 0 ? `#/chat/${parts.join('/')}` : '#/';
}

class Router {
  current = $state<Route>(parseRoute(location.hash));

  constructor() {
    window.addEventListener('hashchange', () => (this.current = parseRoute(location.hash)));
  }

  go(route: Route, isReplacing = false): void {
    if (isReplacing) history.replaceState(null, '', hrefOf(route));
    else history.pushState(null, '', hrefOf(route));
    this.current = route;
  }

  chat(id: string | null, message: string | null = null): void {
    this.go({ name: 'chat', id, message });
  }
}

export const router = new Router();
