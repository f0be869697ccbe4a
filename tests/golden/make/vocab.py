"""Small tokenizers of every kind that language models use, and what they make of nasty texts.

Trains them with the tokenizers package (sentencepiece for a compiled character map) on the sentences
below and the names of Unicode characters, then writes tokenizers/NAME/{tokenizer.json,cases.json}.
A case is {"text", "ids", "plain", "full", "decoded", "shown"}: ids with special tokens parsed,
`plain` without (encode_special_tokens; left out where it differs on purpose), `full` with BOS and
EOS; decoded without and with special tokens. "bytes" cases are ids alone: broken UTF-8, any order.

gguf-spm and gguf-ugm hold what a converter to GGUF writes of a SentencePiece model (metadata.json),
and the ids that sentencepiece itself gives.

    pip install tokenizers==0.23.3 sentencepiece protobuf
    python tests/golden/make/vocab.py tests/golden/tokenizers
"""
import json, os, random, sys, tempfile, unicodedata
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

OUT = sys.argv[1]
SENTENCES = """The quick brown fox jumps over the lazy dog. It's John's, they're we've I'm you'll he'd.
A server that generates pictures and text from one device for everybody at once.
In 1984 there were 1,234,567 reasons; 3.14159 was one of them, and 42 another.
def main(argc, argv):\n    for i in range(10):\n        print(i, end=" ")\n    return 0\n
Der Fluß fließt über Größen und Ärger. Où est la bibliothèque, s'il vous plaît ? ¿Qué tal, señor?
Привет, мир! Как дела сегодня? Γειά σου Κόσμε, τι κάνεις;
日本語のテキストです。漢字とかなが交じります。 中文字符和标点符号，也要分开。 한국어 문장도 있습니다.
مرحبا بالعالم، كيف حالك؟ שלום עולם מה שלומך हिन्दी में एक वाक्य है। ภาษาไทยไม่มีช่องว่าง
Emoji 😀 😃 👍 and symbols ± × ÷ ≤ ≥ ∞ are text too. http://example.com/path?q=1&r=2#frag
"""


def corpus():
    rng = random.Random(7)
    lines = SENTENCES.split("\n") * 6
    names = [unicodedata.name(chr(c), "") for c in range(0x20, 0x3000)]
    names = [n.lower() for n in names if n]
    lines += [" ".join(rng.sample(names, 6)).capitalize() + "." for _ in range(600)]
    return lines


def texts():
    rng = random.Random(11)
    fixed = ["", "a", " a", "a ", "Hello world!", "Hello  world\n\n", "  leading", "trailing  ",
             "It's John's, they're we've I'm you'll he'd CAN'T \u2019s 'S'T'RE \u017f'\u017f",
             "1234567890 3.14159 1,000,000 0x1F \u00bd \u2167 \u00b2 \u0663\u0664 \uff11\uff12",
             "na\u00efve caf\u00e9 co\u00f6perate \u00c5ngstr\u00f6m", "nai\u0308ve cafe\u0301 A\u030a",
             "日本語のテキスト 漢字かな交じり文", "한국어 문장입니다. 생성형 AI", "Привет, мир! Как дела?",
             "مرحبا بالعالم", "שלום עולם", "हिन्दी में पाठ", "ภาษาไทยภาษาไทย",
             "😀😃 👩\u200d👩\u200d👧\u200d👦 🇰🇷 ✊🏿", "\u200bzero\u200dwidth\u2060", "tabs\tand\nnew\r\nlines\r",
             "def f(x):\n    return x**2  # comment\n\n\n", '{"key": [1, 2, {"a": null}]}',
             "\u0001\u0002\u001f\u007f\u0085\u00a0\u00ad", "\u180e\u2003\u2028\u2029\u3000x\ufeff\ufffd",
             "a" * 200, " " * 33, "\n" * 17, "\t \t \n \t", "ab" * 60, "!!!???...---___***",
             "ALLCAPS MixedCase camelCase snake_case kebab-case \u01c5 \u02b0",
             "ﬁ ligature İstanbul ß ẞ ſ ＦＵＬＬ　ｗｉｄｔｈ Ⅷ ℌ ①", "\u2581 \u2581\u2581 under \u2581score",
             "<0x41> <0x0A>", "\U00010348\U0001f9ff\U000e0041", "e\u0301\u0327 vs e\u0327\u0301",
             "<s> </s> <unk> <pad> [CLS] [SEP] [MASK] [UNK]", "<|endoftext|>", "x<|im_start|>user\nhi<|im_end|>y",
             "<|begin_of_text|><|eot_id|>", "<tool_call> {} </tool_call>", "  <mask>  here", "word<mask>word",
             "<|im_end", "<|endoftext|", "<||endoftext|>|>", "e\x0cd K\x85x", "single sing singles", "Cat cat CAT cats", "a multiXword x"]
    pools = ["abcdefgh ABC .,", " \t\n\r\u00a0\u3000", "0123456789\u0660\u0967\u00b9", "'\u2019sStTmMdDlLvVrReE ",
             "日本語漢字かなカナ中文。、", "\u0300\u0301\u0327\u0308aeiou", "😀👩\u200d👧🏿🇰🇷\ufe0f", "<|>/s[]im_endu nkpd"]
    for _ in range(24):
        pool = "".join(rng.sample(pools, rng.randint(1, 4)))
        fixed.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 40))))
    return fixed


def bpe(tok, size=700, **kw):
    alphabet = kw.pop("alphabet", pre_tokenizers.ByteLevel.alphabet())
    tr = trainers.BpeTrainer(vocab_size=size, initial_alphabet=sorted(alphabet), show_progress=False, **kw)
    tok.train_from_iterator(corpus(), tr)
    return tok


def edit(tok, change):
    j = json.loads(tok.to_str())
    change(j)
    return Tokenizer.from_str(json.dumps(j))


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return bpe(t, special_tokens=["<|endoftext|>"])


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    bpe(t)

    def whole_word(j):  # a word of the vocabulary that no merge makes: ignore_merges finds it
        j["model"]["vocab"]["ĠmultiXword"] = len(j["model"]["vocab"])
    t = edit(t, whole_word)
    t.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    return t


def qwen2():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    bpe(t)
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False),
                  AddedToken("café", normalized=True)])
    return t


def digits():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    return bpe(t, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def deepseek():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[\r\n]"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s?\p{L}+"), "isolated"),
        pre_tokenizers.Split(Regex(r"\s?\p{P}+"), "isolated"),
        pre_tokenizers.Split(Regex("[一-龥ࠀ-一가-퟿]+"), "isolated"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t = bpe(t)
    t.add_special_tokens([AddedToken("<｜end▁of▁sentence｜>", special=True)])
    return t


def roberta():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t.decoder = decoders.ByteLevel()
    bpe(t, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    t.add_tokens([AddedToken("sing", single_word=True), AddedToken("Cat", rstrip=True, normalized=False)])
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    return t


BYTES = ["<0x%02X>" % i for i in range(256)]


def sentencepiece_bpe(normalizer, pre, decoder):
    t = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre, decoder
    special = ["<unk>", "<s>", "</s>"]
    tr = trainers.BpeTrainer(vocab_size=1000, special_tokens=special + BYTES, limit_alphabet=120, show_progress=False)
    t.train_from_iterator(corpus(), tr)

    def bytes_are_no_added_tokens(j):
        j["added_tokens"] = [a for a in j["added_tokens"] if a["content"] in special]
        j["model"].update(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    return edit(t, bytes_are_no_added_tokens)


def llama2():
    t = sentencepiece_bpe(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None,
                          decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                             decoders.Strip(" ", 1, 0)]))
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return t


def mistral():
    t = sentencepiece_bpe(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
                          decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                             decoders.Strip(" ", 1, 0)]))
    t.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return t


def gemma():
    t = sentencepiece_bpe(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"),
                          decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]))
    t.add_tokens([AddedToken(c * n, normalized=False) for c in ("\n", "▁") for n in range(2, 12)])
    return t


def unigram():
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(),
                                         normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.decoder = decoders.Metaspace(prepend_scheme="always")
    tr = trainers.UnigramTrainer(vocab_size=600, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
                                 show_progress=False)
    t.train_from_iterator(corpus(), tr)
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return t


def sentencepiece_model(rules, **kw):
    import sentencepiece as spm
    from sentencepiece import sentencepiece_model_pb2 as pb
    with tempfile.TemporaryDirectory() as d:
        open(d + "/rules.tsv", "w").write(rules)
        open(d + "/text", "w").write("\n".join(corpus()))
        if rules:
            kw["normalization_rule_tsv"] = d + "/rules.tsv"
        spm.SentencePieceTrainer.train(input=d + "/text", model_prefix=d + "/m", vocab_size=400, hard_vocab_limit=False,
                                       minloglevel=2, **kw)
        raw = open(d + "/m.model", "rb").read()
    m = pb.ModelProto()
    m.ParseFromString(raw)
    return m, spm.SentencePieceProcessor(model_proto=raw)


RULES = "".join("%s\t%s\n" % (" ".join("%X" % ord(c) for c in a), " ".join("%X" % ord(c) for c in b)) for a, b in (
    ("ﬁ", "fi"), ("①", "1"), ("Ⅷ", "VIII"), ("\u00a0", " "), ("\u3000", " "), ("é", "e"), ("e\u0301", "e"), ("ab", "X"),
    ("Ｆ", "F"), ("한", "\u1112\u1161\u11ab"), ("\u200d", "")))


def gguf(model, processor, name):
    proto = model
    types = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6}  # the format took sentencepiece's numbers
    meta = {"tokenizer.ggml.model": name, "tokenizer.ggml.tokens": [p.piece for p in proto.pieces],
            "tokenizer.ggml.scores": [p.score for p in proto.pieces],
            "tokenizer.ggml.token_type": [types[p.type] for p in proto.pieces],
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.add_space_prefix": proto.normalizer_spec.add_dummy_prefix,
            "tokenizer.ggml.remove_extra_whitespaces": proto.normalizer_spec.remove_extra_whitespaces}
    if proto.normalizer_spec.precompiled_charsmap:
        meta["tokenizer.ggml.precompiled_charsmap"] = list(proto.normalizer_spec.precompiled_charsmap)
    rows = []
    for text in texts():
        if "\u2581" in text or "<u" in text or "<s" in text or "</s" in text:
            continue  # sentencepiece sees no difference between U+2581 and a space, nor names of its own tokens
        ids = processor.encode(text)
        rows.append({"text": text, "plain": ids})
        if 0 not in ids:  # sentencepiece shows an unknown token, llama.cpp does not
            rows[-1]["decoded"] = processor.decode(ids)
    return meta, rows


def gguf_spm():
    m = sentencepiece_model("", model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
                            remove_extra_whitespaces=False, character_coverage=0.98)
    return gguf(*m, "llama")


def gguf_ugm():
    return gguf(*sentencepiece_model(RULES, character_coverage=0.98), "t5")


def t5():
    import base64
    m, _ = sentencepiece_model(RULES, character_coverage=0.98)
    pieces = [(p.piece, p.score) for p in m.pieces]
    t = Tokenizer(models.Unigram([("<pad>", 0.0)] + pieces, 1, False))
    j = json.loads(t.to_str())
    j["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(m.normalizer_spec.precompiled_charsmap).decode()},
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]}
    j["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    j["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    t = Tokenizer.from_str(json.dumps(j))
    t.add_special_tokens(["<pad>", "<unk>", "</s>", "<s>"])
    return t


def bert():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    tr = trainers.WordPieceTrainer(vocab_size=700, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
                                   limit_alphabet=300, show_progress=False)
    t.train_from_iterator(corpus(), tr)
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                                     special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return t


def words():
    t = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(),
                                         normalizers.Strip()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(),
                                               pre_tokenizers.Punctuation("merged_with_next")])
    tr = trainers.WordLevelTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False)
    t.train_from_iterator(corpus(), tr)
    return t


def suffix():
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", continuing_subword_prefix="@@"))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(),
                                               pre_tokenizers.Split(Regex(r"\d{2}+|\w+"), "contiguous", invert=True),
                                               pre_tokenizers.FixedLength(9)])
    t.decoder = decoders.BPEDecoder("</w>")
    tr = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>"], end_of_word_suffix="</w>",
                             continuing_subword_prefix="@@", limit_alphabet=90, show_progress=False)
    t.train_from_iterator(corpus(), tr)
    return t


def cases(t):
    rows = []
    for text in texts():
        row = {"text": text}
        for name, encode_special, add in (("ids", False, False), ("plain", True, False), ("full", False, True)):
            t.encode_special_tokens = encode_special
            row[name] = t.encode(text, add_special_tokens=add).ids
        # Unigram's own trie still finds "</s>" in plain text. Ours never does, so no case of that.
        special = {i for i, a in t.get_added_tokens_decoder().items() if a.special}
        if isinstance(t.model, models.Unigram) and special & set(row["plain"]) - {t.token_to_id("<unk>")}:
            del row["plain"]
        row["decoded"] = t.decode(row["full"], skip_special_tokens=True)
        row["shown"] = t.decode(row["full"], skip_special_tokens=False)
        rows.append(row)
    rng = random.Random(5)
    n = t.get_vocab_size()
    for _ in range(12):
        ids = [rng.randrange(n) for _ in range(rng.randint(1, 12))]
        if n > 300 and rng.random() < 0.5:  # bytes in a row, mostly broken
            ids = [rng.randrange(3, 258) for _ in range(6)]
        if "\0" in t.decode(ids, skip_special_tokens=False):
            continue  # readers of JSON refuse the character
        rows.append({"bytes": ids, "decoded": t.decode(ids, skip_special_tokens=True),
                     "shown": t.decode(ids, skip_special_tokens=False)})
    return rows


if __name__ == "__main__":
    for make in (gpt2, llama3, qwen2, digits, deepseek, roberta, llama2, mistral, gemma, unigram, t5, bert, words, suffix):
        folder = os.path.join(OUT, make.__name__)
        os.makedirs(folder, exist_ok=True)
        t = make()
        t = Tokenizer.from_str(t.to_str())  # as a reader of the file sees it
        with open(folder + "/tokenizer.json", "w") as f:
            json.dump(json.loads(t.to_str()), f, ensure_ascii=False, separators=(",", ":"))
        with open(folder + "/cases.json", "w") as f:
            f.write("[" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in cases(t)) + "]\n")
        print(make.__name__, t.get_vocab_size(), os.path.getsize(folder + "/tokenizer.json"))
    for make in (gguf_spm, gguf_ugm):
        folder = os.path.join(OUT, make.__name__.replace("_", "-"))
        os.makedirs(folder, exist_ok=True)
        meta, rows = make()
        json.dump(meta, open(folder + "/metadata.json", "w"), ensure_ascii=False, separators=(",", ":"))
        with open(folder + "/cases.json", "w") as f:
            f.write("[" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "]\n")
        print(make.__name__, len(meta["tokenizer.ggml.tokens"]))
