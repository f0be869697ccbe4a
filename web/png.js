// png.js: what a picture says about how it was made: the text chunk "parameters" of a PNG, in the form that
// A1111's web UI began and many tools read.

const LIMIT = 1 << 20; // of one text, unpacked

async function inflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream('deflate'));
  const parts = [];
  let size = 0;
  for (const reader = stream.getReader(); ;) {
    const { value, done } = await reader.read();
    if (done) break;
    if ((size += value.length) > LIMIT) throw new Error('a text of the PNG is too long');
    parts.push(value);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

const latin1 = (data) => new TextDecoder('latin1').decode(data);
const utf8 = (data) => new TextDecoder().decode(data);

// Where the next zero byte is; the end if there is none.
function zero(data, from) {
  const at = data.indexOf(0, from);
  return at < 0 ? data.length : at;
}

async function readText(kind, data) {
  let at = zero(data, 0);
  const key = latin1(data.subarray(0, at));
  if (kind === 'tEXt') return [key, latin1(data.subarray(at + 1))];
  if (kind === 'zTXt') return [key, latin1(await inflate(data.subarray(at + 2)))];
  const packed = data[at + 1] === 1;
  at = zero(data, at + 3); // after the language
  at = zero(data, at + 1); // after the keyword's translation
  const text = data.subarray(at + 1);
  return [key, utf8(packed ? await inflate(text) : text)];
}

// {keyword: text} of a PNG (Uint8Array). Throws if it is none.
export async function pngTexts(file) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 8 || view.getUint32(0) !== 0x89504e47 || view.getUint32(4) !== 0x0d0a1a0a) throw new Error('This is not a PNG.');
  const out = {};
  for (let at = 8; at + 12 <= file.length;) {
    const size = view.getUint32(at), kind = latin1(file.subarray(at + 4, at + 8));
    if (size > file.length - at - 12) break; // cut off
    if (['tEXt', 'zTXt', 'iTXt'].includes(kind) && size < LIMIT) {
      try {
        const [key, text] = await readText(kind, file.subarray(at + 8, at + 8 + size));
        out[key] ??= text;
      } catch { /* this one cannot be read; others may */ }
    }
    if (kind === 'IEND') break;
    at += size + 12;
  }
  return out;
}

// "Key: value, Key: "quoted, value", ..." as [[key, value]].
function pairs(line) {
  const out = [];
  const pattern = /\s*([^:,]{1,60}):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)/gy;
  for (let m; (m = pattern.exec(line)) && m[0];) {
    let value = m[2].trim();
    if (value.startsWith('"')) { try { value = JSON.parse(value); } catch { /* as it stands */ } }
    out.push([m[1].trim(), value]);
  }
  return out;
}

// Infotext to {prompt, negative, settings: {Steps: '20', ...}}; everything is text.
export function parseInfotext(text) {
  const lines = text.trimEnd().split('\n');
  const settings = {};
  if (/(^|, )(Steps|Seed): /.test(lines.at(-1))) for (const [k, v] of pairs(lines.pop())) settings[k] = String(v);
  const body = lines.join('\n');
  const at = body.startsWith('Negative prompt:') ? 0 : body.indexOf('\nNegative prompt:');
  if (at < 0) return { prompt: body, negative: '', settings };
  return { prompt: body.slice(0, at), negative: body.slice(at).replace(/^\n?Negative prompt: ?/, ''), settings };
}
