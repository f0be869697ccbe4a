"""The block formats that anneal reads, out of the quant_blocks.safetensors that text.py makes:
   python3 quant_subset.py FULL.safetensors ../quant_blocks.safetensors"""
import json, struct, sys

KEEP = ("Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS").split()

with open(sys.argv[1], "rb") as f:
    header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    data = f.read()
out, body = {}, b""
for part in ("values", "bytes"):  # the f32 first, so that they are aligned
    for fmt in KEEP:
        t = header[f"{fmt}.{part}"]
        begin, end = t["data_offsets"]
        out[f"{fmt}.{part}"] = dict(t, data_offsets=[len(body), len(body) + end - begin])
        body += data[begin:end]
text = json.dumps(out).encode()
text += b" " * (-len(text) % 8)
with open(sys.argv[2], "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + body)
