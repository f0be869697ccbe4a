"""What holds a live server to its own document, /openapi.json; runs in the virtual environment of
test_openapi.py, which has jsonschema_rs and schemathesis.

  contract.py document URL KEY FILE   the document as schemathesis is to read it
  contract.py examples URL KEY        asks every example, and holds every answer and event to its schema"""
import copy, json, os, sys, urllib.error, urllib.parse, urllib.request

JSON, SSE = 'application/json', 'text/event-stream'
METHODS = ('get', 'post', 'put', 'patch', 'delete')


def ask(url, key, method, path, body=None, **more):
    """(status, media type, headers, bytes); more: headers, with _ for -"""
    data = None if body is None else json.dumps(body).encode()
    headers = {'X-Api-Key': key, **({'Content-Type': JSON} if data else {}), **{k.replace('_', '-'): v for k, v in more.items()}}
    request = urllib.request.Request(url + path, data, headers, method=method.upper())
    try:
        with urllib.request.urlopen(request, timeout=300) as r:
            return r.status, r.headers.get_content_type(), r.headers, r.read()
    except urllib.error.HTTPError as e:
        return e.code, e.headers.get_content_type(), e.headers, e.read()


def resolve(doc, node):
    while isinstance(node, dict) and '$ref' in node:
        target = doc
        for part in node['$ref'][2:].split('/'):
            target = target[part.replace('~1', '/').replace('~0', '~')]
        node = target
    return node


def operations(doc):
    """(method, path, operation, all parameters)"""
    for path, item in doc['paths'].items():
        for method in METHODS:
            if method in item:
                op = item[method]
                yield method, path, op, [resolve(doc, p) for p in item.get('parameters', []) + op.get('parameters', [])]


def closed(doc):
    """The document with every object of an answer closed: a field that is not documented is a fault. Open in
    the document itself, so that clients written today live with the fields of tomorrow."""
    doc, seen = copy.deepcopy(doc), set()

    def close(node):
        if isinstance(node, list):
            for item in node:
                close(item)
        elif isinstance(node, dict):
            if '$ref' in node:
                if node['$ref'] not in seen:
                    seen.add(node['$ref'])
                    close(resolve(doc, node))
                return
            if 'properties' in node and 'additionalProperties' not in node:
                node['additionalProperties'] = False
            for item in node.values():
                close(item)
    for _, _, op, _ in operations(doc):
        for response in op['responses'].values():
            for media in resolve(doc, response).get('content', {}).values():
                close([media.get('schema'), media.get('x-events')])
    return doc


def body_of(doc, path):
    return doc['paths'][path]['post']['requestBody']['content'][JSON]


def as_stream(events):
    """x-events as OpenAPI 3.2 has them: the schema of one event."""
    named, bare, other = [], [], []
    for e in events:
        if 'literal' in e:
            other.append({'properties': {'event': {'const': 'message'}, 'data': {'const': e['literal']}}})
        elif 'event' in e:
            named.append((e['event'], e['data']))
        else:
            bare.append(e['data'])
    if bare:
        named.append(('message', {'anyOf': bare}))
    for name, schema in named:
        other.append({'properties': {'event': {'const': name}, 'data': {
            'type': 'string', 'contentMediaType': JSON, 'contentSchema': schema}}})
    return {'type': 'object', 'required': ['event', 'data'], 'anyOf': other}


def of_this_server(doc, models, samplers):
    """What a schema cannot say of any server, but can of this one: names of its models, how many tokens they
    know, which pictures they make; so that most of what is generated is answered with more than a fault."""
    doc = copy.deepcopy(doc)
    schemas = doc['components']['schemas']
    text = next(m for m in models if m['kind'] == 'text' and m['default'])
    image = next(m for m in models if m['kind'] == 'image' and m['default'])
    schemas['TextModelName'] = {'enum': [text['id'], None]}
    schemas['ImageModelName'] = {'enum': [image['id'], None]}
    schemas['TokenId']['maximum'] = text['meta']['n_vocab'] - 1
    # those of flow matching are refused by models that are none
    schemas['SamplerName'] = {'enum': [n for s in samplers for n in (s['name'], *s['aliases']) if 'flow' not in n.lower()
                                       ] + ['', None]}
    schemas['Txt2ImgRequest']['properties']['sampler_index'] = {'type': ['string', 'null'], 'maxLength': 256}  # sampler_name rules
    schemas['ScheduleName'] = {'enum': ['', None]}
    fields = schemas['ImageRequest']['properties']
    fields['size'] = {'enum': ['auto', '32x32', '64x32', None]}
    for edge in ('Width', 'Height'):
        schemas[edge].update(minimum=32, multipleOf=32)
    for schema, field in ((schemas['LatentsRequest']['oneOf'][0], 'image'), (schemas['LatentsRequest']['oneOf'][1], 'latents')):
        schema['properties'][field] = {'enum': [e['value'][field] for e in body_of(doc, '/v1/latents')['examples'].values()
                                                if field in e['value']]}
    info = body_of(doc, '/sdapi/v1/png-info')
    info['schema']['properties']['image'] = {'enum': [info['examples']['blank']['value']['image']]}
    schemas['PromptText']['minLength'] = 1
    for part in [schemas['TextFields'], *schemas['CompletionRequest']['allOf'], *schemas['ChatRequest']['allOf']]:
        part.pop('if', None)  # rules between fields: with them hardly a right request would be made
        part.pop('then', None)
    for part in (p.get('properties', {}) for p in schemas['CompletionRequest']['allOf'] + [schemas['TextFields']]):
        for field in ('best_of', 'json_schema', 'min_tokens'):
            part.pop(field, None)  # they must fit other fields, and would leave few requests that do
    chat = next(p['properties'] for p in schemas['ChatRequest']['allOf'] if 'properties' in p)
    chat['tools'] = {'enum': [[{'type': 'function', 'function': {'name': 'f', 'parameters': {'type': 'object'}}}], [], None]}
    schemas['Grammar'] = {'enum': ['root ::= "a" | "b"', '', None]}
    return doc


def document(url, key, out):
    link = ask(url, key, 'post', '/v1/images/generations', dict(prompt='owl', steps=1, response_format='url'))
    doc = json.loads(ask(url, key, 'get', '/openapi.json')[3])
    models = json.loads(ask(url, key, 'get', '/v1/models')[3])['data']
    samplers = json.loads(ask(url, key, 'get', '/sdapi/v1/samplers')[3])
    doc = closed(of_this_server(doc, models, samplers))
    name = json.loads(link[3])['data'][0]['url'].rsplit('/', 1)[1]
    doc['paths']['/v1/files/{name}']['get']['parameters'][0].update(schema={'enum': [name]}, example=name)
    job = json.loads(ask(url, key, 'post', '/v1/jobs', dict(kind='image', prompt='owl', steps=1))[3])['id']
    jobs = next(p for p in doc['paths']['/v1/events']['get']['parameters'] if p.get('name') == 'jobs')
    jobs.update(schema={'enum': [job]}, example=job)
    doc['paths']['/web/{name}']['get']['parameters'][0]['schema'] = {'enum': ['main.js']}
    doc['openapi'] = '3.2.0'
    for _, _, op, _ in operations(doc):
        for response in op['responses'].values():
            media = resolve(doc, response).get('content', {}).get(SSE)
            if media and 'x-events' in media:
                media.pop('schema')
                media['itemSchema'] = as_stream(media.pop('x-events'))
    with open(out, 'w') as f:
        json.dump(doc, f)


# ---------------------------------------------------------------- examples


class Holder:
    """Holds values to schemas of the document."""

    def __init__(self, doc):
        self.doc, self.validators = doc, {}

    def faults(self, schema, value):
        import jsonschema_rs
        key = json.dumps(schema, sort_keys=True)
        if key not in self.validators:
            self.validators[key] = jsonschema_rs.Draft202012Validator({**schema, 'components': self.doc['components']})
        return [f'{e.message} at {list(e.instance_path)}' for e in self.validators[key].iter_errors(value)]

    def stream(self, media, data):
        """Faults of an event stream, and the names of its events."""
        wrong, names = [], []
        for block in data.decode().split('\n\n'):
            lines = [l for l in block.split('\n') if l and not l.startswith(':')]
            if not lines:
                continue
            name = next((l[7:] for l in lines if l.startswith('event: ')), None)
            text = next(l[6:] for l in lines if l.startswith('data: '))
            known = [e for e in media['x-events'] if e.get('event') == name]
            names.append(name or ('literal' if any(e.get('literal') == text for e in known) else 'data'))
            if names[-1] == 'literal':
                continue
            value = json.loads(text)
            tries = [self.faults(e['data'], value) for e in known if 'data' in e]
            if not tries or all(tries):
                wrong.append(f'event {name}: {min(tries, key=len) if tries else "not documented"}: {text[:300]}')
        return wrong, names

    def answer(self, op, status, media_type, headers, data):
        """Faults of an answer."""
        if 'X-Request-Id' not in headers:
            return [f'{status} without X-Request-Id'], []
        response = resolve(self.doc, op['responses'].get(str(status)))
        if response is None:
            return [f'status {status} is not documented: {data[:300]}'], []
        for name, header in response.get('headers', {}).items():
            if header.get('required') and name not in headers:
                return [f'{status} without {name}'], []
        if 'content' not in response:
            return ([f'{status} with a body: {data[:300]}'] if data else []), []
        media = response['content'].get(media_type)
        if media is None:
            return [f'{status} of type {media_type}'], []
        if media_type == SSE:
            return self.stream(media, data)
        if media_type == JSON:
            wrong = self.faults(media['schema'], json.loads(data))
            return [f'{w}: {data[:500]}' for w in wrong], []
        return [], []


def answer_types(doc, op):
    """What a client may ask for, where there is a choice of texts."""
    types = [t for t in resolve(doc, op['responses'].get('200', {})).get('content', {}) if t.startswith('text/') and t != SSE]
    return types if len(types) > 1 or '304' in op['responses'] else []


def examples(url, key):
    doc = json.loads(ask(url, key, 'get', '/openapi.json')[3])
    models = json.loads(ask(url, key, 'get', '/v1/models')[3])['data']
    strict = closed(doc)
    holder, asked, wrong, made, heard = Holder(strict), 0, [], {}, set()

    def hold(what, op, answer, want=None):
        nonlocal asked
        asked += 1
        faults, names = holder.answer(op, *answer)
        heard.update(names)
        if want and answer[0] not in want:
            faults.append(f'status {answer[0]}: {answer[3][:300]}')
        wrong.extend(f'{what}: {f}' for f in faults)

    every = list(operations(strict))
    for method, path, op, parameters in every:  # first what makes things, then what looks at them
        body = resolve(doc, op.get('requestBody', {}))
        for name, example in body.get('content', {}).get(JSON, {}).get('examples', {}).items():
            schema = body['content'][JSON]['schema']
            wrong.extend(f'{path} example {name}: {f}' for f in Holder(doc).faults(schema, example['value']))
            answer = ask(url, key, method, path, example['value'])
            hold(f'{method} {path} example {name}', op, answer, (200, 202))
            if answer[1] == JSON:
                value = json.loads(answer[3])
                if answer[0] == 202:
                    made.setdefault('jobs', []).append(value['id'])
                if isinstance(value, dict) and value.get('data') and 'url' in value['data'][0]:
                    made['file'] = value['data'][0]['url'].rsplit('/', 1)[1]
        if body:  # and what is wrong is said in the documented way
            hold(f'{method} {path} with a list', op, ask(url, key, method, path, []), (400,))
    for method, path, op, parameters in every:
        if 'requestBody' in op or method == 'delete':
            continue
        name = made.get('file', '') if path.startswith('/v1/files/') else next((p['example'] for p in parameters if p['name'] == 'name'), '')
        query = '?jobs=' + ','.join(made['jobs']) if any(p['name'] == 'jobs' for p in parameters) else ''
        where = [path.replace('{name}', name).replace('{model}', m['id']).replace('{id}', job) + query
                 for job in (made['jobs'] if '{id}' in path else [''])
                 for m in (models if '{model}' in path else [models[0]])]
        for at in where:
            answer = ask(url, key, method, at)
            hold(f'{method} {at}', op, answer, (200,))
            head = ask(url, key, 'head', at) if method == 'get' and answer[1] != SSE else answer
            if head[:2] != answer[:2]:
                wrong.append(f'head {at}: {head[:2]}, get: {answer[:2]}')
            for kind in answer_types(strict, op):
                got = ask(url, key, method, at, Accept=kind)
                hold(f'{method} {at} as {kind}', op, got, (200,))
                if got[2]['ETag']:
                    same = ask(url, key, method, at, Accept=kind, If_None_Match=got[2]['ETag'])
                    hold(f'{method} {at} once more', op, same, (304,))
        for p in parameters:
            if p['in'] == 'path':  # the example names nothing that is there, but for a model's
                answer = ask(url, key, method, path.replace('{%s}' % p['name'], 'nobody'))
                hold(f'{method} {path} of nobody', op, answer, (404,))
        if op.get('security') != []:
            hold(f'{method} {path} without a key', op, ask(url, 'wrong', method, at), (401,))
    for path, item in strict['paths'].items():
        methods = {m.upper() for m in item if m in METHODS} | {'OPTIONS'} | ({'HEAD'} if 'get' in item else set())
        status, _, headers, _ = ask(url, key, 'options', path.replace('{', '').replace('}', ''))
        if status != 204 or set((headers['Allow'] or '').split(', ')) != methods:
            wrong.append(f'options {path}: {status}, allowed {headers["Allow"]}, documented {sorted(methods)}')
    for job in made['jobs']:
        op = strict['paths']['/v1/jobs/{id}']['delete']
        hold(f'delete of {job}', op, ask(url, key, 'delete', '/v1/jobs/' + job), (200,))
    for line in wrong:
        print('WRONG', line)
    wanted = {e['event'] for _, _, op, _ in every for r in op['responses'].values()
              for e in resolve(strict, r).get('content', {}).get(SSE, {}).get('x-events', []) if 'event' in e}
    # what ends a stream badly has tests of its own; a picture of a few steps may be done before it was seen waiting
    missing = wanted - heard - {'error', 'failed', 'cancelled', 'queued', 'position'}
    print(f'{asked} answers held to the document, {len(wrong)} wrong; events: {sorted(heard)}')
    if missing:
        print('WRONG never heard:', sorted(missing))
    return 1 if wrong or missing else 0


if __name__ == '__main__':
    what, url, key, *rest = sys.argv[1:]
    sys.exit(document(url, key, *rest) if what == 'document' else examples(url, key))
