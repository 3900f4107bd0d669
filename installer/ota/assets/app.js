// The script of the page: it asks for parts of the page anew when something happens, sends what buttons say, uploads
// in resumable pieces (tus 1.0), and shows what the device reports as it happens. Without it the page can be read.
'use strict';
(() => {
const $ = (s, e = document) => e.querySelector(s), $$ = (s, e = document) => [...e.querySelectorAll(s)];
const texts = JSON.parse(document.body.dataset.texts), api = '/api/v1/ota', app = document.body.dataset.app;
const t = (key, ...args) => { let i = 0; return (texts[key] || key).replace(/%[sd]/g, () => args[i++]); };
const q = (more = {}) => '?' + new URLSearchParams({app, ...more});
if (!app) { // the service is not there, or no app: shown as soon as it is
  setInterval(async () => { const r = await fetch('/ui/version'); if (r.ok || r.status === 401) location.reload(); }, 2000);
  return;
}

// Times are shown as the browser's clock has them.
const localize = e => $$('time[datetime]', e).forEach(x => {
  const d = new Date(x.dateTime);
  if (!isNaN(d)) x.title = x.dateTime;
});

// sentence says a problem, or an event that failed, in the page's language.
const sentence = p => texts['why.' + p.reason] || texts['why.'];
// why is a sentence with what is folded under it.
function why(text, detail) {
  const e = document.createElement('div');
  e.textContent = text;
  if (detail) {
    const d = document.createElement('details'), s = document.createElement('summary');
    s.textContent = texts.details;
    d.append(s, detail); e.append(d);
  }
  return e;
}
const failed = p => Object.assign(new Error(sentence(p)), {detail: p.detail});

// say shows a message that is also read aloud.
function say(text, kind = 'bad', detail) {
  const p = document.createElement('div');
  p.className = 'alert ' + kind;
  const s = why(text, detail), x = document.createElement('button');
  x.textContent = '×'; x.setAttribute('aria-label', '×');
  x.onclick = () => p.remove();
  p.append(s, x);
  $('#messages').replaceChildren(p);
}

async function call(method, path, body) {
  const r = await fetch(path, {method, headers: body ? {'Content-Type': 'application/json'} : {}, body: body && JSON.stringify(body)});
  if (r.status === 401) { location.href = '/login'; throw new Error('401'); }
  const v = await r.json().catch(() => ({}));
  if (!r.ok) throw failed(v);
  return v;
}

// shown is what an answer shows: a problem as its sentence.
async function shown(r) {
  const text = await r.text();
  if (!r.headers.get('Content-Type')?.includes('json')) return text;
  const p = document.createElement('div'), v = JSON.parse(text);
  p.className = 'alert warn'; p.setAttribute('role', 'alert'); p.append(why(sentence(v), v.detail));
  return p.outerHTML;
}

// Parts of the page.
const query = {history: {}}, waits = {}, turns = {};
async function load(part) {
  const turn = turns[part] = (turns[part] || 0) + 1;
  const r = await fetch('/ui/' + part + q(query[part]));
  if (r.status === 401) { location.href = '/login'; return; }
  if (r.status === 502) { lost('down'); return; } // what was known stays to be read
  const e = $(`[data-part="${part}"]`), focus = e.contains(document.activeElement) && document.activeElement.id;
  const html = await shown(r);
  if (turn !== turns[part]) return; // it was asked for again: what comes late is old
  const unfolded = $('.fold', e)?.open;
  if (!r.ok) { const h = $('h2', e); e.innerHTML = html; if (h) e.prepend(h); }
  else e.innerHTML = html;
  if (unfolded && $('.fold', e)) $('.fold', e).open = true;
  if (focus) $('#' + focus)?.focus();
  localize(e);
}
// soon asks for parts once, however often something happens, and again when the network failed: a browser gives up
// requests when an address of its machine changes.
function soon(...parts) {
  for (const p of parts) {
    clearTimeout(waits[p]);
    waits[p] = setTimeout(() => load(p).catch(() => { waits[p] = setTimeout(() => soon(p), 2000); }), 120);
  }
}

// Dialogs.
let opener;
function show(dialog) { if (!dialog.open) { opener = document.activeElement; dialog.showModal(); } }
$$('dialog').forEach(d => d.addEventListener('close', () => opener?.isConnected && opener.focus()));
function confirm(name, version, yes, text = name, other) {
  $('#h-confirm').textContent = t(name + '.title', version);
  $('#confirm-text').textContent = t(text + '.text', version);
  const button = (e, key, f) => { e.hidden = !f; e.textContent = f ? t(key) : ''; e.onclick = () => { $('#confirm').close(); run(f); }; };
  button($('#confirm-yes'), other ? text + '.keep' : name, yes);
  button($('#confirm-other'), text + '.restore', other);
  show($('#confirm'));
}
async function plan(id, force) {
  const e = $('#plan div');
  const r = await fetch('/ui/plan/' + id + q({force: force ? 'true' : 'false'}));
  e.innerHTML = await shown(r);
  e.dataset.force = force ? 'true' : '';
  show($('#plan'));
}

const actions = {
  check: async b => { b.disabled = true; try { await load('release'); } finally { b.disabled = false; } },
  plan: async b => { b.disabled = true; try { await plan(b.dataset.id, b.dataset.force === 'true'); } finally { b.disabled = false; } },
  apply: async b => {
    const force = $('#plan div').dataset.force === 'true';
    $('#plan').close();
    await call('POST', `${api}/${b.dataset.id}/apply${q()}`, force ? {force} : undefined);
    watch(); soon('waiting', 'history');
  },
  delete: b => confirm('delete', b.dataset.version, async () => { await call('DELETE', `${api}/${b.dataset.id}${q()}`); soon('waiting', 'history'); }),
  restore: b => confirm('restore', b.dataset.version, () => call('POST', `${api}/backups/${b.dataset.id}/restore${q()}`)),
  run: async b => {
    b.disabled = true;
    try { const v = await call('POST', `${api}/${b.dataset.call}${q()}`); say(v.message ? t('runs', $('#version .number').textContent) : t('done'), 'good'); }
    finally { b.disabled = false; soon('version', 'history', 'health', 'backups'); }
  },
  stop: b => confirm('stop', '', async () => { await call('POST', api + '/stop' + q()); say(t('stopped'), 'good'); soon('health'); }),
  rollback: b => {
    const back = data => async () => {
      let id = b.dataset.id;
      if (!id) { // from the version card: the record that brought what runs
        const s = await call('GET', api + '/state' + q());
        const h = await call('GET', api + q({status: 'completed', page_size: 100}));
        id = h.data.find(u => u.version === s.current.version)?.public_id;
      }
      await call('POST', `${api}/${id}/rollback${q()}`, data && {data});
    };
    const policy = b.dataset.data;
    confirm('rollback', b.dataset.version, back(policy === 'ask' ? 'keep' : ''), 'rollback.' + (policy || 'never'), policy === 'ask' && back('restore'));
  },
  download: async b => { b.disabled = true; try { const u = await call('POST', api + '/download' + q()); soon('waiting', 'history'); await plan(u.public_id); } finally { b.disabled = false; } },
};
const run = f => f().catch(e => say(e.message, 'bad', e.detail));

document.addEventListener('click', e => {
  const b = e.target.closest('button');
  if (!b) return;
  if (b.dataset.action) run(async () => actions[b.dataset.action](b));
  else if ('close' in b.dataset) b.closest('dialog').close();
  else if (b.dataset.open) show($('#' + b.dataset.open));
  else if (b.dataset.page) { query.history.page = b.dataset.page; soon('history'); }
});
document.addEventListener('change', e => {
  if ('filter' in e.target.dataset) { query.history = e.target.value ? {status: e.target.value} : {}; soon('history'); }
  if ('submit' in e.target.dataset) e.target.form.submit();
});
document.addEventListener('submit', e => {
  if (e.target.id !== 'settings-form') return;
  e.preventDefault();
  const f = Object.fromEntries(new FormData(e.target)), window = f.from || f.to ? f.from + '-' + f.to : '';
  run(async () => {
    await call('PATCH', api + '/settings' + q(), {check_every: f.check_every, auto: f.auto, window, channel: f.channel || ''});
    await load('settings'); say(t('saved'), 'good'); soon('release');
  });
});
$('#create-form')?.addEventListener('submit', e => {
  e.preventDefault();
  const f = new FormData(e.target);
  run(async () => {
    await call('POST', api + q(), {version: f.get('version'), changelog: f.get('changelog') || null});
    $('#create').close(); e.target.reset(); soon('waiting', 'history');
  });
});

// Live progress. The first event has all of the transaction that runs or was last, so a reload loses nothing.
const size = n => { const u = ['B', 'KiB', 'MiB', 'GiB', 'TiB']; let i = 0; while (n >= 1023.95 && i < 4) { n /= 1024; i++; } return n.toFixed(i ? 1 : 0) + ' ' + u[i]; };
function line(e) {
  const name = texts['step.' + e.step] || t(e.step || '');
  if (e.type === 'status') return [t('status.' + e.status)];
  if (e.type === 'queued') return [t('queued')];
  if (e.type === 'waiting') return [t('waiting', sentence(e)), '', e.detail];
  if (e.type === 'step' && e.step === 'undo') return [t('undo'), 'bad', e.detail];
  if (e.type === 'step' && e.error) return [name + ': ' + t('failed', sentence(e)), 'bad', e.error];
  if (e.type === 'step') return [name + (e.ended ? ': ' + t('done') : ' …') + (e.detail ? ' ' + e.detail : '')];
}
function log(e) {
  const l = line(e);
  if (!l) return;
  const li = document.createElement('li'), time = new Date(e.time).toLocaleTimeString();
  li.append(why(time + '  ' + l[0], l[2]));
  if (l[1]) li.className = l[1];
  $('#log').append(li);
  $('#log').scrollTop = 1e9;
}
function bar(e) {
  const b = $('#bar'), p = $('progress', b);
  b.hidden = e.ended || !e.done;
  if (e.total) p.value = 100 * e.done / e.total; else p.removeAttribute('value');
  $('span', b).textContent = size(e.done || 0) + (e.total ? ' / ' + size(e.total) : '');
}
function happened(e) {
  if (e.type === 'progress' || e.type === 'download') { $('#activity').hidden = false; bar(e); return; }
  if (e.type === 'upload') return;
  if (e.type === 'begin') { $('#log').replaceChildren(); return; }
  log(e);
  if (e.type === 'step' && e.ended) bar({ended: true});
  if (e.record && e.type !== 'deleted' && !(e.type === 'status' && e.status === 'pending')) $('#activity').hidden = false;
  soon('activity');
  if (e.type === 'status' || e.type === 'deleted') soon('version', 'waiting', 'history', ...(['completed', 'rolled_back'].includes(e.status) ? ['release', 'backups', 'health'] : []));
}
// lost says once why nothing can be heard.
function lost(why) {
  const m = $('#messages');
  if (m.dataset.lost !== why) say(t(why), 'warn');
  m.dataset.lost = why;
}
let events;
function watch() {
  if (events && events.readyState !== 2) return;
  events = new EventSource(api + '/events' + q());
  events.addEventListener('past', e => {
    const past = JSON.parse(e.data);
    $('#log').replaceChildren();
    past.forEach(log);
    $('#activity').hidden = !past.some(x => x.type === 'begin' || x.record);
    const last = past.at(-1);
    bar(last && last.type === 'progress' ? last : {ended: true});
    soon('activity', 'version', 'waiting', 'history');
    const m = $('#messages');
    if (m.dataset.lost) {
      m.replaceChildren(); delete m.dataset.lost;
      soon('release', 'backups', 'health', ...($('#settings-form') ? [] : ['settings']));
    }
  });
  events.addEventListener('now', e => happened(JSON.parse(e.data)));
  events.onopen = () => clearTimeout(waits.lost);
  events.onerror = () => {
    clearTimeout(waits.lost);
    waits.lost = setTimeout(() => lost('lost'), 5000);
    if (events.readyState !== 2) return;
    // The device answers, but not with events: the session has ended, or the service.
    setTimeout(watch, 2000);
    call('GET', api + '/state' + q()).catch(() => lost('down'));
  };
}

// Upload: tus 1.0. The address of an unfinished upload is kept, so that choosing the same file again, even after the
// page was closed, goes on where it stopped.
const drop = $('#drop'), piece = 8 << 20;
if (drop) {
  let current;
  const text = s => { $('#upload-text').textContent = s; };
  const pause = ms => new Promise(r => setTimeout(r, ms));
  const tus = {'Tus-Resumable': '1.0.0'};
  const eta = s => !isFinite(s) ? '–' : s < 60 ? Math.ceil(s) + ' s' : Math.floor(s / 60) + ' min ' + Math.ceil(s % 60) + ' s';

  const send = (url, file, offset, job) => new Promise((done, lost) => {
    const x = new XMLHttpRequest(), from = performance.now();
    job.request = x;
    x.open('PATCH', url);
    for (const [k, v] of Object.entries({...tus, 'Upload-Offset': offset, 'Content-Type': 'application/offset+octet-stream'})) x.setRequestHeader(k, v);
    x.upload.onprogress = e => {
      const at = offset + e.loaded, rate = e.loaded / (performance.now() - from) * 1000;
      $('#upload progress').value = at / file.size;
      text(at >= file.size ? t('verifying') : t('uploading', size(at), size(file.size), size(rate), eta((file.size - at) / rate)));
    };
    x.onload = () => done(x);
    x.onerror = x.onabort = () => lost(new Error('network'));
    x.send(file.slice(offset, offset + piece));
  });
  const problem = x => { try { return JSON.parse(x.responseText); } catch { return {}; } };
  const refused = (name, p) => Object.assign(failed(p), {message: name + ': ' + sentence(p), final: true});

  // whole is one file, or the parts .001, .002, … of one as if they were one.
  function whole(files) {
    files.sort((a, b) => a.name < b.name ? -1 : 1);
    const name = files[0].name.replace(/\.\d{3}$/, '');
    if (name === files[0].name && files.length === 1) return files[0];
    if (files.some((f, i) => f.name !== name + '.' + String(i + 1).padStart(3, '0'))) throw new Error(t('parts'));
    return Object.assign(new Blob(files), {name, lastModified: Math.max(...files.map(f => f.lastModified))});
  }
  async function upload(files) {
    $('#file').value = ''; // the same may be chosen again
    const file = whole(files), key = 'upload ' + app + ' ' + [file.name, file.size, file.lastModified].join(' '), job = current = {};
    $('#upload').hidden = false; drop.hidden = true;
    $('#upload-name').textContent = file.name;
    $('#upload progress').value = 0;
    try {
      let url = localStorage.getItem(key), offset = 0, tries = 0;
      while (!job.cancelled) {
        try {
          if (url) {
            const r = await fetch(url, {method: 'HEAD', headers: tus});
            if (r.status === 401) { location.href = '/login'; return; }
            if (r.ok) offset = +r.headers.get('Upload-Offset');
            else if (r.status >= 500) throw new Error('network');
            else url = null;
          }
          if (!url) {
            const meta = 'app ' + btoa(app) + ',filename ' + btoa(String.fromCharCode(...new TextEncoder().encode(file.name)));
            const r = await fetch(api + '/files', {method: 'POST', headers: {...tus, 'Upload-Length': file.size, 'Upload-Metadata': meta}});
            if (r.status === 401) { location.href = '/login'; return; }
            if (r.status !== 201) throw refused(file.name, await r.json().catch(() => ({})));
            url = new URL(r.headers.get('Location'), location.href).pathname; offset = 0;
            localStorage.setItem(key, url);
          }
          job.url = url;
          while (offset < file.size && !job.cancelled) {
            const x = await send(url, file, offset, job);
            if (x.status === 204) { offset = +x.getResponseHeader('Upload-Offset'); tries = 0; continue; }
            if (x.status === 423 || x.status === 409 || x.status >= 502 && x.status <= 504) throw new Error('network');
            localStorage.removeItem(key);
            if (x.status !== 200) throw refused(file.name, problem(x));
            const u = JSON.parse(x.responseText);
            soon('waiting', 'history');
            if (u.queued) { say(t('applied', u.version), 'good'); watch(); return; }
            say(t('ready', u.version), 'good');
            await plan(u.public_id);
            return;
          }
        } catch (e) {
          if (e.final) { localStorage.removeItem(key); throw e; }
          if (job.cancelled) break;
          text(t('resuming', size(offset)));
          await pause(Math.min(10000, 500 * 2 ** tries++));
        }
      }
      localStorage.removeItem(key);
      if (job.url) await fetch(job.url, {method: 'DELETE', headers: tus});
    } catch (e) {
      say(e.message, 'bad', e.detail); soon('history');
    } finally {
      $('#upload').hidden = true; drop.hidden = false; $('#file').value = ''; $('#file').focus();
      if (current === job) current = null;
    }
  }
  $('#file').addEventListener('change', e => e.target.files[0] && run(() => upload([...e.target.files])));
  $('#upload-cancel').addEventListener('click', () => { if (current) { current.cancelled = true; current.request?.abort(); } });
  drop.addEventListener('dragover', e => { e.preventDefault(); drop.classList.add('over'); });
  drop.addEventListener('dragleave', () => drop.classList.remove('over'));
  drop.addEventListener('drop', e => { e.preventDefault(); drop.classList.remove('over'); if (!current && e.dataTransfer.files[0]) run(() => upload([...e.dataTransfer.files])); });
  addEventListener('beforeunload', e => { if (current) e.preventDefault(); });
}

localize(document);
watch();
soon('release', 'health', 'settings');
})();
