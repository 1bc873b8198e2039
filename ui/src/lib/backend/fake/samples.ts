/** Answers that are hard to show, by the name that the address asks for them with: `?answer=formulas`. */
export const SAMPLES: Record<string, string> = {
  formulas: `Inline $E=mc^2$, a block:

$$
\\int_0^1 x^2\\,dx = \\frac{1}{3}
$$

and within a line \\(a+b\\), \\[c+d\\] and $$f=g$$.

\`\`\`python
print(1)

    indented
\`\`\`

| a | b |
|---|---|
| 1 | 2 |

1. one
2. two
   - inner $x$

The end.`,
  money: `Add $HOME/bin:$PATH to your profile, and then $XDG_DATA_HOME.

It costs $5, use \`a=$b\` and then \`c=$d\` to see.

$$
x = 1

This is the rest.

- item one`,
  html: `Water is H<sub>2</sub>O, x<sup>2</sup>, first<br>second, press <kbd>Ctrl</kbd>.

| a | b |
|---|---|
| one<br>two | <sup>3</sup>He |

- [x] bought milk
- [ ] water the plants
- plain

<sub onclick="window.hacked=1">not this</sub> <img src=x onerror="window.hacked=2"> <sub>never closed

8x7B != 8x22B -> \`a != b\`, \`x -> y\``,
  links: `A [link](https://example.org/a?b=c#d), bare https://example.org/x, mail <mailto:ada@example.org>, hidden [https://good.example](https://evil.example/path), user [u](https://good.example@evil.example/), [titled](https://evil.example "https://good.example"), [good.example](https://good.example/).`,
  steps: `1. Step one:

   \`\`\`bash
   ls -la
   \`\`\`

2. Step two:

   \`\`\`bash
   pwd
   \`\`\`

3. Step three`,
  arabic: `مرحبا، هذا نص عربي ينتهي بنقطة.

\`\`\`python
print('hello')
\`\`\`

\`a = b\` هو مثال.

- بند أول.
- بند ثان.

1. واحد

   فقرة

| عمود | ثان |
|---|---|
| قيمة | 5 |

> اقتباس.

English again.`
};
