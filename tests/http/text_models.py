"""Small language models for the HTTP suites: the random checkpoints of tests/golden/llm, alone (token
ids only) and with a tokenizer of bytes and letter pairs made here."""
import json, os, sys, tempfile
sys.path.insert(0, os.path.dirname(__file__))
from harness import *

LLM = os.path.join(GOLDEN, 'llm')
SPECIAL = ['<pad>', '<s>', '<|im_end|>', '<|im_start|>', '<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>']
CHATML = ('{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}'
          '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}')
# knows tools, and what Python's json makes of them
HERMES = ('{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}'
          '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}'
          '{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}'
          '<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}')


def byte_alphabet():
    """GPT-2's printable stand-ins for bytes."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in keep]
    return {**{b: chr(b) for b in keep}, **{b: chr(256 + i) for i, b in enumerate(other)}}


def tokenizer(vocab_size):
    """tokenizer.json: control tokens, the 256 bytes, then letter pairs up to vocab_size."""
    letters = 'etaoinshrdlucmfwypvbgkjqxz'
    vocab = {t: i for i, t in enumerate(SPECIAL)}
    for c in byte_alphabet().values():
        vocab[c] = len(vocab)
    merges = []
    for pair in (a + b for a in letters for b in letters):
        if len(vocab) < vocab_size:
            vocab[pair] = len(vocab)
            merges.append([pair[0], pair[1]])
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return dict(version='1.0', truncation=None, padding=None,
                added_tokens=[dict(id=i, content=t, **plain) for i, t in enumerate(SPECIAL)],
                normalizer=None, pre_tokenizer=dict(type='ByteLevel', add_prefix_space=False, trim_offsets=True, use_regex=True),
                post_processor=None, decoder=dict(type='ByteLevel', add_prefix_space=True, trim_offsets=True, use_regex=True),
                model=dict(type='BPE', dropout=None, unk_token=None, continuing_subword_prefix=None,
                           end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, vocab=vocab, merges=merges))


def add_model(folder, name, source='llama', template=None):
    """A model folder: the checkpoint's files, and with a template a tokenizer too."""
    model, out = os.path.join(LLM, source, 'model'), os.path.join(folder, name)
    os.mkdir(out)
    for f in os.listdir(model):
        os.symlink(os.path.join(model, f), os.path.join(out, f))
    if template is None:
        return
    with open(os.path.join(model, 'config.json')) as f:
        size = json.load(f)['vocab_size']
    with open(os.path.join(out, 'tokenizer.json'), 'w') as f:
        json.dump(tokenizer(size), f)
    with open(os.path.join(out, 'tokenizer_config.json'), 'w') as f:
        json.dump(dict(tokenizer_class='PreTrainedTokenizerFast', bos_token='<s>', eos_token='<|im_end|>', pad_token='<pad>',
                       add_bos_token=False, clean_up_tokenization_spaces=False, chat_template=template), f)


def models():
    """A folder with: bare (no tokenizer), tiny (ChatML), tools (a template that knows tools), trims (messages),
    silent (shows none), loops, grows (makes large values), deep (nests)."""
    folder = tempfile.mkdtemp(prefix='anneal-text-')
    add_model(folder, 'bare')
    add_model(folder, 'tiny', template=CHATML)
    add_model(folder, 'tools', template=HERMES)
    add_model(folder, 'trims', template=CHATML.replace('m.content', 'm.content | trim'))
    add_model(folder, 'silent', template='nothing')
    add_model(folder, 'grows', template="{% set x = 'y' * 200000 %}{{ x | length }}")
    add_model(folder, 'deep', template='{{ ' + '(' * 40 + '1' + ')' * 40 + ' }}')
    add_model(folder, 'loops', template='{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}')
    return folder


def smollm2():
    """Path of SmolLM2's GGUF, or None."""
    home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    path = os.environ.get('ANNEAL_SMOLLM2') or os.path.join(home, 'anneal', 'models', 'smollm2-135m-instruct.gguf')
    return path if os.path.exists(path) else None
