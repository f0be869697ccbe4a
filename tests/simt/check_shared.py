"""A kernel that may have more dynamic shared memory than 48 KB (shared_allow) has no static one, nor
what it calls: a real GPU adds the two, the emulator knows the dynamic kind alone.

check_shared.py FOLDER...   with the *.cu and *.cuh
"""
import glob, os, re, sys


def functions(text):
    """name: body of what is defined at the outermost level; overloads and specialisations together."""
    text = re.sub(r'/\*.*?\*/|//[^\n]*', ' ', text, flags=re.S)
    text = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)
    text = re.sub(r'^[ \t]*#(?:[^\n]*\\\n)*[^\n]*', ' ', text, flags=re.M)
    out, depth, start, head = {}, 0, 0, 0
    for m in re.finditer(r'[{};]', text):
        if m.group() == '{':
            if depth == 0:
                start = m.end()
            depth += 1
        elif m.group() == '}':
            depth -= 1
            if depth == 0:
                before = re.sub(r'__launch_bounds__\s*\([^()]*\)', ' ', text[head:start - 1])
                name = re.search(r'(\w+)\s*\(', before)
                if name:
                    out[name.group(1)] = out.get(name.group(1), '') + text[start:m.start()]
                head = m.end()
        elif depth == 0:
            head = m.end()
    assert depth == 0, 'braces do not match'
    return out


def static_of(name, known, seen):
    """Functions below `name`, itself included, that declare static shared memory."""
    if name not in known or name in seen:
        return []
    seen.add(name)
    body = known[name]
    found = [name] if re.search(r'\b__shared__\b', body) else []
    for called in set(re.findall(r'\b\w+\b', body)):
        found += static_of(called, known, seen)
    return found


def main(folders):
    files = sorted(f for d in folders for e in ('*.cu', '*.cuh') for f in glob.glob(os.path.join(d, e)))
    texts = {f: open(f, encoding='utf-8').read() for f in files}
    headers = {}
    for f in files:
        if f.endswith('.cuh'):
            headers.update(functions(texts[f]))
    asked = wrong = 0
    for f in (f for f in files if f.endswith('.cu')):
        own = functions(texts[f])
        known = dict(headers, **own)
        kernels = re.findall(r'\bshared_allow\(\s*\w+\s*,\s*(\w+)', texts[f])
        if not kernels:  # asked for by a macro of tile.cuh
            kernels = [name for name, body in own.items() if 'DYN_SHARED' in body]
        for kernel in kernels:
            assert kernel in known, (f, kernel)
            asked += 1
            for name in static_of(kernel, known, set()):
                print(f'{f}: {kernel} is launched with shared_allow, and {name} has static shared memory beside')
                wrong += 1
    print(f'{asked} kernels may have more than 48 KB')
    return wrong or asked < 9


if __name__ == '__main__':
    sys.exit(1 if main(sys.argv[1:]) else 0)
