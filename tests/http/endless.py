"""A language model whose answers take minutes: what is to happen in the middle of one does, however fast the server."""
import json, os

ROOM = 64000  # tokens of one answer

ENDLESS = ['--max-tokens', str(ROOM), '--max-context', '65536', '--kv-bytes', '64M']  # what a server needs to give such answers


def make_endless(source, out):
    """The model of a folder without an end token, and with room for ROOM others and a prompt."""
    os.mkdir(out)
    changes = {'config.json': dict(max_position_embeddings=ROOM + 1000, eos_token_id=None), 'tokenizer_config.json': dict(eos_token=None), 'tokenizer.json': {}}
    for name in os.listdir(source):
        if name in changes:
            with open(os.path.join(source, name)) as f, open(os.path.join(out, name), 'w') as g:
                config = dict(json.loads(f.read().replace('<|im_end|>', '<|turn|>')), **changes[name])
                json.dump({k: v for k, v in config.items() if v is not None}, g)
        elif name != 'generation_config.json':
            os.symlink(os.path.realpath(os.path.join(source, name)), os.path.join(out, name))
