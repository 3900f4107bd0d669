// The documentation site: scripts/docs.sh builds it. Pages are the files of this directory and some of the repository,
// so that they read well on GitHub too; what is neither a page nor a picture becomes a link to GitHub.
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { defineConfig } from 'vitepress'
import { outside, sidebar } from './pages.mjs'

const repository = path.resolve(import.meta.dirname, '../..')
const github = 'https://github.com/valise-ota/valise'
const version = process.env.VALISE_DOCS_VERSION || 'main' // a tag, or main
const versions = process.env.VALISE_DOCS_VERSIONS?.split(' ') ?? [] // those of the menu, newest first
const base = process.env.VALISE_DOCS_BASE || '/' // where this version is on its server
const root = base.replace(/[^/]+\/$/, '') // where the versions are

// address is where a file of the repository is on the site, undefined when it is not there.
function address(file) {
  if (outside[file]) return '/' + outside[file].replace(/\.md$/, '')
  const page = /^docs\/(.*)\.md$/.exec(file)
  return page && '/' + page[1].replace(/(^|\/)index$/, '$1')
}

// slug names a heading as GitHub does: links work in both places, and TestLinks checks them.
const slug = (text) => text.trim().toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-')

// braces has texts mean what they say: {{ }} is a template of Go or GitHub here, never one of Vue.
function braces(md) {
  for (const rule of ['text', 'code_inline']) {
    const render = md.renderer.rules[rule]
    md.renderer.rules[rule] = (...args) => render(...args).replaceAll('{{', '&#123;&#123;')
  }
}

// cells has an empty cell in the head of a table be no heading, which would have no name.
function cells(md) {
  md.core.ruler.push('empty_headings', ({ tokens }) => {
    tokens.forEach((token, i) => {
      if (token.type === 'th_open' && tokens[i + 1].content === '') token.tag = tokens[i + 2].tag = 'td'
    })
  })
}

// links makes the relative links of the files absolute ones of the site.
function links(md) {
  md.core.ruler.push('repository_links', (state) => {
    if (!state.env.realPath) return // for the search, which needs no links
    for (const block of state.tokens) {
      for (const token of block.children ?? []) {
        const href = token.type === 'link_open' && token.attrGet('href')
        if (!href || /^([a-z]+:|#|\/)/i.test(href)) continue
        const [, target, anchor] = /^([^#]*)(#.*)?$/.exec(href)
        const file = path.relative(repository, path.resolve(path.dirname(state.env.realPath), decodeURI(target)))
        token.attrSet('href', (address(file) ?? `${github}/blob/${version}/${file}`) + (anchor ?? ''))
      }
    }
  })
}

// deadLinks looks at what was built: VitePress knows nothing of anchors, nor of the links of menus.
function deadLinks(dir) {
  const html = new Map(readdirSync(dir, { recursive: true }).filter((name) => name.endsWith('.html')).map((name) => [name, readFileSync(path.join(dir, name), 'utf8')]))
  const ids = new Map([...html].map(([name, text]) => [name, new Set([...text.matchAll(/\sid="([^"]*)"/g)].map(([, id]) => id))]))
  const dead = new Set()
  for (const [name, text] of html) {
    for (const [, href] of text.matchAll(/<a\s[^>]*?href="([^"]*)"/g)) {
      const to = new URL(href.replaceAll('&amp;', '&'), `http://here${base}${name}`)
      if (to.host !== 'here' || !to.pathname.startsWith(base)) continue // another site, or another version
      const target = decodeURIComponent(to.pathname.slice(base.length))
      const file = [target, `${target}.html`, `${target}index.html`].find((f) => html.has(f) || (f && !f.endsWith('/') && existsSync(path.join(dir, f))))
      if (!file || (to.hash && !ids.get(file)?.has(decodeURIComponent(to.hash.slice(1))))) dead.add(`${name}: ${href}`)
    }
  }
  return [...dead]
}

// vue is found by pages above this directory too.
const vue = {
  name: 'vue-of-the-site',
  enforce: 'pre',
  resolveId(id, importer, options) {
    if (/^vue($|\/)/.test(id) && importer?.startsWith(repository)) return this.resolve(id, import.meta.filename, { ...options, skipSelf: true })
  },
}

export default defineConfig({
  title: 'Valise',
  description: 'Sealed release bundles for the machines you cannot reach',
  lang: 'en',
  base,
  srcDir: '..',
  srcExclude: ['{build,dist,examples,testdata,cmd,installer,verify,scripts,.github,.ci}/**', 'bundle/!(FORMAT.md)/**', 'README.md', '**/node_modules/**'],
  outDir: '../build/docs',
  cacheDir: '../build/docs-cache',
  rewrites: { ...outside, 'docs/:page(.*)': ':page' },
  cleanUrls: true,
  metaChunk: true,
  vite: { plugins: [vue] },
  head: [['link', { rel: 'icon', href: `data:image/svg+xml,${encodeURIComponent('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path d="M5 4V2h6v2h4v10H1V4zm2 0h2V3.500H7z" fill="#0b6bcb"/></svg>')}` }]],
  markdown: { theme: { light: 'github-light-high-contrast', dark: 'github-dark-high-contrast' }, anchor: { slugify: slug }, config: (md) => md.use(links).use(braces).use(cells) },
  themeConfig: {
    nav: [
      { text: 'Start', link: '/tutorials/' },
      { text: 'Guides', link: '/how-to/' },
      { text: 'Reference', link: '/reference/' },
      { text: 'Troubleshooting', link: '/troubleshooting' },
      // VitePress puts base before a link that begins with /. To a browser \ is the same.
      ...(versions.length ? [{ text: version, items: versions.map((v) => ({ text: v, link: `${root}${v}/`.replaceAll('/', '\\'), target: '_self' })) }] : []),
    ],
    sidebar: sidebar.map(({ text, pages }) => ({
      text,
      items: pages.map(([title, file]) => ({ text: title, link: address(file) })),
    })),
    outline: { level: [2, 3] },
    search: { provider: 'local', options: { detailedView: true } },
    socialLinks: [{ icon: 'github', link: github }],
    editLink: { pattern: `${github}/edit/main/:path` },
    footer: { message: 'Apache-2.0' },
  },
  buildEnd({ outDir }) {
    const dead = deadLinks(outDir)
    if (dead.length) throw new Error(`dead links:\n${dead.join('\n')}`)
  },
  // Nothing comes from elsewhere, and no script runs that was not built.
  transformHtml(code) {
    const hashes = [...code.matchAll(/<script(?![^>]*\bsrc=)[^>]*>([\s\S]*?)<\/script>/g)].map(([, script]) => `'sha256-${createHash('sha256').update(script).digest('base64')}'`)
    const policy = `default-src 'none'; script-src 'self' ${hashes.join(' ')}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'`
    return code.replace('<meta charset="utf-8">', (charset) => `${charset}\n    <meta http-equiv="Content-Security-Policy" content="${policy}">`)
  },
})
