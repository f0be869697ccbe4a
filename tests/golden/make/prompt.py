# Prompt weighting as the A1111 web UI does it: runs its own parse_prompt_attention and tokenize_line.
#   python prompt.py PATH/stable-diffusion-webui PATH/weights/demo/emoji/tokenizer OUT/prompt-cases.json
# (web UI 1.10; transformers 5.23). Chunks have the demo model's 32 ids; a row ends with its last id
# or weight that is not the padding's (end token, 1.0).
import json, random, sys, types
from unittest import mock
webui, tokenizer, out = sys.argv[1:4]
sys.path.insert(0, webui)
torch = types.ModuleType('torch'); torch.nn = types.SimpleNamespace(Module=object); sys.modules['torch'] = torch
for m in ('lark', 'modules.devices', 'modules.sd_hijack', 'modules.sd_emphasis', 'modules.shared'):
    sys.modules.setdefault(m, mock.MagicMock())
import modules; import modules.shared, modules.devices, modules.sd_hijack, modules.sd_emphasis
from modules.shared import opts
opts.emphasis, opts.comma_padding_backtrack = 'Original', 20
from modules.sd_hijack_clip import FrozenCLIPEmbedderWithCustomWordsBase as Base
del sys.modules['torch']
from transformers import CLIPTokenizer
t = CLIPTokenizer.from_pretrained(tokenizer)
e = Base.__new__(Base)
e.chunk_length, e.id_start, e.id_end = 30, t.bos_token_id, t.eos_token_id
e.comma_token = t.get_vocab().get(',</w>')
e.tokenize = lambda texts: [t(x, add_special_tokens=False, truncation=False, padding=False)['input_ids'] for x in texts]
e.hijack = mock.MagicMock(); e.hijack.embedding_db.find_embedding_at_position = lambda tokens, at: (None, None)
w = lambda n: ' '.join(['red', 'apple', 'blue', 'cat', 'sun'][i % 5] for i in range(n))
S = ['', ' ', 'a red apple', '(apple)', '((apple))', '[apple]', '[[apple]]', '(apple:1.3)', '(apple:0.5) and [sun]', '(apple: 1.3 )', '(apple:+1.2)', '(apple:-.5)',
     '((red) apple:1.5) cat', '(red (apple:1.3) [sun])', '(unclosed', '[unclosed (twice', 'never) opened]', 'sun :1.3)', 'sun:', 'a:b (c:d) :', '(sun:1.)', '(sun:.5)', '(:1.3)', '()', '(()[])',
     r'\(apple\)', r'\[apple\] \\ \x', '\\', r'(apple\)', r'(a\:1.3)', r'(apple\\)', '(sun:٣)', '(sun:１.５)',
     'red BREAK blue', 'BREAK', 'red BREAK', 'BREAK red', 'BREAK BREAK', 'redBREAK', 'BREAKFAST', 'red_BREAK', 'red,BREAK,blue', 'éBREAK', 'red\u2003BREAK\x1fblue', '(red BREAK blue)', '(red BREAK blue:1.2)', '(red BREAK blue:1)', '[BREAK]', '(red) BREAK [blue]', '(sun:-1)BREAK cat', 'break', '(BREAK:-1)',
     w(29), w(30), w(31), w(60), w(61), w(5) + ', ' + w(24), w(9) + ', ' + w(40), w(10) + ', ' + w(40), w(11) + ', ' + w(40), w(28) + ', ' + w(40), w(29) + ', ' + w(40), w(30) + ', ' + w(40), w(15) + ', ' + w(5) + ', ' + w(30), ', '.join(['red'] * 40), ',' * 70,
     '(' + w(20) + ', ' + w(20) + ':1.4) [' + w(10) + ']', 'a <|endoftext|> b', '(' * 20 + 'sun' + ')' * 20, '[' * 20 + 'sun', '(masterpiece:1.2), best quality, ((ultra-detailed)), [blurry], ' + w(30)]
R = random.Random(5)
bits = ['(', ')', '[', ']', ':', ':1.2)', ': 0.7 )', '\\', ',', ' ', 'BREAK', 'red', 'apple ', 'sun, ', '1', '.', ' BREAK ', 'é', '(cat', ':-1)']
while len(S) < 160:
    s = ''.join(R.choice(bits) for _ in range(R.randint(2, 60)))
    try: e.tokenize_line(s)
    except ValueError: continue
    S.append(s)
def short(c):
    n = max([i + 1 for i, (a, b) in enumerate(zip(c.tokens, c.multipliers)) if (a, b) != (e.id_end, 1.0)])
    return dict(ids=c.tokens[:n], weights=c.multipliers[:n])
rows = [dict(text=s, chunks=[short(c) for c in e.tokenize_line(s)[0]]) for s in S]
json.dump(rows, open(out, 'w'), ensure_ascii=True, separators=(',', ':'))
print(len(rows), max(len(r['chunks']) for r in rows))
