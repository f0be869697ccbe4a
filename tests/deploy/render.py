"""Renders the part of kustomize that deploy/kubernetes uses (resources, namespace, images, strategic merges by name) and
checks what comes by Kubernetes' schemas. Run by test_manifests.py in an environment that has kubernetes-validate.
    render.py FOLDER    prints {"objects": [...], "findings": [...], "unchecked": [...]} as JSON"""
import json, os, sys
import kubernetes_validate, yaml

KNOWN = {'apiVersion', 'kind', 'resources', 'namespace', 'images', 'patches'}


def merge(base, patch):
    """Kubernetes' strategic merge, lists of named things by their names; other lists are replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {**base, **{k: merge(base[k], v) if k in base else v for k, v in patch.items()}}
    if isinstance(base, list) and isinstance(patch, list) and all(isinstance(x, dict) and 'name' in x for x in base + patch):
        by_name = {x['name']: x for x in base}
        for x in patch:
            by_name[x['name']] = merge(by_name[x['name']], x) if x['name'] in by_name else x
        return list(by_name.values())
    return patch


def same(a, b):
    return (a['kind'], a['metadata']['name']) == (b['kind'], b['metadata']['name'])


def documents(path):
    with open(path) as f:
        return [d for d in yaml.safe_load_all(f) if d]


def render(folder):
    (k,) = documents(os.path.join(folder, 'kustomization.yaml'))
    assert k['kind'] == 'Kustomization' and set(k) <= KNOWN, set(k) - KNOWN
    out = []
    for r in k['resources']:
        path = os.path.join(folder, r)
        out += render(path) if os.path.isdir(path) else documents(path)
    for p in k.get('patches', []):
        for patch in documents(os.path.join(folder, p['path'])):
            assert sum(same(o, patch) for o in out) == 1, patch['metadata']
            out = [merge(o, patch) if same(o, patch) else o for o in out]
    for image in k.get('images', []):
        for c in (c for o in out if o['kind'] == 'Deployment' for c in o['spec']['template']['spec']['containers']):
            if c['image'].split(':')[0] == image['name']:
                c['image'] = f'{image.get("newName", image["name"])}:{image["newTag"]}'
    for o in out:
        if 'namespace' in k:
            o['metadata']['namespace'] = k['namespace']
    return out


def check(objects):
    findings, unchecked = [], []
    for o in objects:
        try:
            kubernetes_validate.validate(o, os.environ.get('KUBERNETES_VERSION', kubernetes_validate.latest_version()), strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unchecked.append(o['kind'])
        except kubernetes_validate.ValidationError as e:
            findings.append(f'{o["kind"]}: {e.message}')
    return findings, unchecked


if __name__ == '__main__':
    objects = render(sys.argv[1])
    findings, unchecked = check(objects)
    print(json.dumps(dict(objects=objects, findings=findings, unchecked=unchecked)))
