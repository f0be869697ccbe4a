// store.js: pictures stay in this browser (IndexedDB), and nowhere else. Where it has no storage (a private
// window), they live as long as the page.

const KEEP = 400; // records; the oldest go first
let opened = null;

function database() {
  opened ??= new Promise((resolve) => {
    let ask;
    try { ask = indexedDB.open('anneal', 1); } catch { resolve(null); return; }
    ask.onupgradeneeded = () => ask.result.createObjectStore('records', { keyPath: 'key' });
    ask.onsuccess = () => resolve(ask.result);
    ask.onerror = () => resolve(null);
  });
  return opened;
}

async function transact(mode, work) {
  const db = await database();
  if (!db) return null;
  return new Promise((resolve) => {
    let result = null;
    try {
      const t = db.transaction('records', mode);
      t.oncomplete = () => resolve(result);
      t.onerror = t.onabort = () => resolve(null);
      work(t.objectStore('records'), (r) => { result = r; });
    } catch { resolve(null); }
  });
}

// All records, oldest first.
export async function load() {
  return (await transact('readonly', (s, give) => { s.getAll().onsuccess = (e) => give(e.target.result); })) ?? [];
}

export function save(record) {
  return transact('readwrite', (s) => {
    s.put(record);
    s.getAllKeys().onsuccess = (e) => { for (const key of e.target.result.slice(0, -KEEP)) s.delete(key); };
  });
}

export const remove = (key) => transact('readwrite', (s) => s.delete(key));
export const clear = () => transact('readwrite', (s) => s.clear());
