# templates.py CASES OUT: goldens of chat templates from real Jinja2 3.1.6, set up as transformers does.
# CASES: rows {template, input, ...} of tests/golden/templates/cases.json (inputs are kept, outputs made
# again, errors with their message); then the expressions and statements below go to OUT/constructs.json.
import datetime, json, os, sys
import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = 1721952000  # 2024-07-26 00:00:00 UTC


class Generation(Extension):
    """The {% generation %} block of transformers, without its tracking."""
    tags = {'generation'}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(['name:endgeneration'], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=lineno)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                    extensions=['jinja2.ext.loopcontrols', Generation])
env.filters['tojson'] = tojson
env.globals['raise_exception'] = raise_exception
env.globals['strftime_now'] = lambda f: datetime.datetime.fromtimestamp(
    NOW, datetime.timezone.utc).strftime(f)


def render(source, variables):
    try:
        return dict(output=env.from_string(source).render(**variables))
    except Exception as e:
        return dict(error=str(e), raised=type(e).__name__)


out = sys.argv[2]
rows = []
for row in json.load(open(sys.argv[1])):
    source = open(os.path.join(out, row['template'])).read()
    rows.append(dict(template=row['template'], input=row['input'], **render(source, row['input'])))
json.dump(rows, open(os.path.join(out, 'cases.json'), 'w'), ensure_ascii=True, separators=(',', ':'))

VARS = dict(
    s='Hello, wörld', t=' \n padded\t ', n=7, f=2.5, big=1e22, small=1.5e-7, yes=True, no=False,
    nothing=None, empty='', zero=0, l=[3, 1, 2], words=['b', 'A', 'c', 'a'], nested=[[1, 2], [3]],
    d=dict(b=1, a=[1, 'x'], c=None), q="it's \"q\" \\ \n\x07é\u200b😀",
    people=[dict(name='Ann', age=31, tags=['x']), dict(name='bob', age=5, tags=[]),
            dict(name='Cyd', age=31)],
    html='<b>&"\'</b>', lines='one\n\n  two\nthree\n', deep=dict(a=dict(b=dict(c=[10, 20]))),
    items={'items': 1, 'keys': 2}, cjk='日本語テキスト')

EXPRESSIONS = r'''
1 + 2 * 3 - 4 / 2
7 // 2, -7 // 2, 7 % 3, -7 % 3, 7 % -3, 7.5 // 2, -7.5 % 2
2 ** 3 ** 2, 2 ** -1, -2 ** 2, 2.0 ** 0.5
1 / 3, 10 / 5, 1e3, 1.0, 100000000000000000.0, 1e-5, 0.0001, 123456789.123
big, small, 1e15, 1e16, 0.1 + 0.2, -0.0
0x1f, 0b101, 0o17, 1_000, 12_34.5
1 == 1.0, true == 1, 'a' == 'a', 'a' < 'b', [1, 2] < [1, 3], (1, 2) == [1, 2], none == false
1 < 2 < 3, 1 < 3 < 2, 3 > 2 >= 2, 1 != 2 != 1
'ell' in s, 'x' not in s, 3 in l, 9 in l, 'a' in d, 'z' in d, 'x' in missing
yes and no, yes or no, not yes, empty or 'other', n and s, nothing or empty
'a' if yes else 'b', 'a' if no else 'b', ('a' if no), 'x' if no else 'y' if no else 'z'
s ~ n ~ f ~ nothing ~ missing ~ l
'a' 'b' "c"
'\n\t\\\'\"\x41\u00e9\U0001F600\101\q'
s[0], s[-1], s[7], s[1:4], s[::-1], s[:-3], s[100:], s[-3:], cjk[1:3], cjk[::2]
l[0], l[-1], l[1:], l[::-1], l[:2], l[5:], nested[0][1], nested[1][0], l[-100:2], l[2:0:-1]
missing, l[9], d.zzz, d['zzz'], s.zzz, n.zzz
missing is defined, s is defined, d.zzz is defined, missing is undefined
n is number, f is number, yes is number, n is integer, yes is integer, f is float, s is string
s is iterable, l is iterable, n is iterable, d is mapping, l is mapping, l is sequence, s is sequence, d is sequence
nothing is none, n is none, yes is true, no is false, 1 is true, yes is boolean, n is boolean
n is odd, n is even, n is divisibleby 7, n is divisibleby(3), n is not odd
n is eq 7, n is equalto(7), n is ne 7, n is lt 8, n is gt 8, n is ge 7, n is le 6, n is in [7], n is not in [7], n is greaterthan 3
'abc' is lower, 'ABC' is upper, s is sameas s
d, l, (1,), (), [], {}, {'a': 1, 2: 'b'}, [none, true, 1.5, 'x'], nested
q, [q], {'k': q}, ["it's"], ['"'], ['a\tb\r']
range(5), range(2, 8, 3), range(5)|list, range(5, 0, -2)|list, range(0)|list
t|trim, t.strip(), t.lstrip(), t.rstrip(), 'xxaxx'.strip('x'), 'xyaxy'|trim('xy'), 'abc'.rstrip('bc')
s.upper(), s.lower(), s.title(), s|title, "it's a-b (c)"|title, "it's a-b (c)".title(), 'hELLO wORLD'|capitalize, 'ß'.upper(), 'éa'|capitalize
s.split(), s.split(', '), 'a,b,c'.split(',', 1), 'a  b c'.split(' '), ' a b  c '.split(none, 1), 'a,b,c'.rsplit(',', 1), ''.split(), ''.split(',')
lines.splitlines(), lines.split('\n'), 'a\r\nb\rc'.splitlines(true)
s.startswith('He'), s.endswith('ld'), s.startswith(('x', 'H')), s.find('l'), s.find('zz'), s.rfind('l'), s.count('l'), 'aaaa'.count('aa'), cjk.find('語')
s.replace('l', 'L'), s.replace('l', 'L', 1), 'abc'.replace('', '-'), s|replace('l', '_'), 'aXbX'|replace('X', '', 1)
', '.join(['a', 'b']), l|join, l|join('-'), people|join(', ', attribute='name'), 'abc'|join('.'), ''|join('x')
'{} {}'.format(1, 'x'), '{1}{0}'.format('a', 'b'), '{a}'.format(a=5), '{{}}'.format(), '%s and %d'|format('a', 5), '%.2f' % 1.005, '%s' % 'x', '%s-%s' % (1, 2), '%05d|%x|%%' % (42, 255)
'12'.isdigit(), 'ab'.isalpha(), 'a1'.isalnum(), ' '.isspace(), ''.isdigit(), 'AB'.isupper(), 'ab'.islower(), '12'.isnumeric()
'a=b=c'.partition('='), 'a=b=c'.rpartition('='), 'abc'.removeprefix('a'), 'abc'.removesuffix('c'), 'abc'.removesuffix('x')
d.items()|list, d.keys()|list, d.values()|list, d.get('a'), d.get('zzz'), d.get('zzz', 5), items.items()|list, items['items'], d|items|list
d|length, l|length, s|length, cjk|length, missing|length, l|count, (1, 2)|length
l|first, l|last, s|first, cjk|last, []|first, l|sum, [1.5, 2]|sum, people|sum(attribute='age'), l|min, l|max, words|min, words|max, []|max
l|sort, l|sort(reverse=true), words|sort, words|sort(case_sensitive=true), people|sort(attribute='age')|map(attribute='name')|list, people|sort(attribute='age,name')|map(attribute='name')|list
people|sort(attribute='age', reverse=true)|map(attribute='name')|list, d|dictsort, {'b': 1, 'A': 2}|dictsort, {'b': 1, 'A': 2}|dictsort(by='value', reverse=true)
l|reverse|list, s|reverse, words|unique|list, [1, 1.0, true, 2]|unique|list, people|unique(attribute='age')|map(attribute='name')|list
words|map('upper')|list, people|map(attribute='name')|list, people|map(attribute='tags.0', default='-')|list, l|map('string')|join('+'), words|map('replace', 'a', 'z')|list
l|select('gt', 1)|list, l|reject('odd')|list, [0, 1, '', 'a']|select|list, people|selectattr('age', 'equalto', 31)|map(attribute='name')|list, people|rejectattr('tags')|map(attribute='name')|list, people|selectattr('tags', 'defined')|list|length
words|select('in', ['a', 'b'])|list, people|selectattr('name', 'ne', 'bob')|map(attribute='name')|join(' ')
missing|default('x'), empty|default('x'), empty|default('x', true), nothing|d('y'), nothing|d('y', true), missing|default, d.zzz|default([])
'42'|int, ' 42 '|int, '4.7'|int, 'x'|int, 'x'|int(-1), 4.9|int, -4.9|int, true|int, 'ff'|int(base=16), '1.5'|float, 'x'|float, 3|float, 'x'|float(1.5), none|int
5|string, 2.50|string, none|string, -5|abs, 5.5|abs, 2.5|round, 3.5|round, 42.55|round(1), 2.675|round(2), 5|round, 2.1|round(method='ceil'), 2.19|round(1, 'floor'), 1234|round(-2)
html|escape|string ~ '', html|e ~ '', html|safe ~ '', html|tojson, q|tojson
d|tojson, d|tojson(indent=2), d|tojson(indent=0), []|tojson(indent=2), {}|tojson(indent=2), people|tojson(indent=4), d|tojson(sort_keys=true), d|tojson(separators=(',', ':')), d|tojson(indent='--')
q|tojson(ensure_ascii=true), 1.0|tojson, 1e22|tojson, true|tojson, none|tojson, (1, 2)|tojson, {1: 2, none: 3, true: 4, 1.5: 5}|tojson, cjk|tojson
lines|indent, lines|indent(2), lines|indent(2, true), lines|indent(2, blank=true), lines|indent('> ', true, true), ''|indent(first=true)
'one two, three_four 5'|wordcount, 'a long text of words'|truncate(10), 'a long text of words'|truncate(10, true), 'short'|truncate(10), 'foo'|center(8), 'fo'|center(7)
l|batch(2)|list, l|batch(2, 'x')|list, dict(a=1, b=2), dict({'x': 1}, y=2), dict([('a', 1)])
deep.a.b.c[1], deep['a']['b'].c.0, deep.a.b.c|last, people[0].name, people[-1]['age']
l + [4], (1,) + (2,), 'ab' * 3, 3 * 'ab', [0] * 3, 'x' * 0, [1] * -1, l == [3, 1, 2], l != [3]
(l|length > 2) and s, not missing, (not missing) is true, n|string + 'x', -n|abs, n is defined and n > 3
strftime_now('%d %b %Y'), strftime_now('%Y-%m-%d')
[1, 2, 3,], (1, 2,), {'a': 1,}
s is string and not (s is mapping), 'a' in ['a', 'b'] and 'x' not in 'abc', 1 if 1 in l else 2
namespace(a=1).a, namespace({'b': 2}).b
true ~ '', none ~ '', 1.0 ~ '', True, False, None
'a' is in('abc'), 3 is in(l), 'b' is in 'abc'
'' if missing else 'm', missing == missing, missing == nothing, [missing]|length, [missing]
'%s' % none, '%r' % 'x', '%d' % 3.9, '%g' % 0.5
'a'.join('xyz'), '-'.join([]), 'é' * 2, 'é' < 'z', ['a', 'B']|sort|join
{'a': {'b': [1, {'c': 2}]}}, {'x': 'it\'s'}, [[], [[]]], ((1, 2), [3])
1 in (1, 2), (1, 2) in [(1, 2)], none in [none], 'a' in {'a': 1}, 1 in {1.0: 'x'}
l[true], l[false:2], s[n - 7], s['0'|int], d.b + 1, d['b'] * 2 - -1, - - 3, +3
'x'.missing_method is defined, l.append is defined, 5 is divisibleby 0.5
'0x10'|int(base=16), '1e3'|float, 'nan'|float, 'inf'|float, ' 3.5 '|float, '1_000'|int(7) > 0
words|join(', ')|upper|replace('A', '4')|length
'abcdef'[1:5:2], 'abcdef'[-2:], 'abcdef'[:-2:-1], [1,2,3,4][-3:-1]
not 1 == 2, not (1 in l), 1 + 1 == 2 and 2 * 2 == 4, 1 - 1 or 5
'tr\\im'|length, '\\n', "\"", 'a\
b'
[1, 2] is sequence, (1).__class__ is defined, s.__class__ is defined
'İ'.lower()|length, 'ΑΣ'.lower(), 'ǆ'.title(), 'ﬁ'.upper()
1.5e300 * 1e10, 5 // 0.3, 5.5 % 2, 2 ** 0.5 > 1.41, 10 ** 18, 9007199254740993, 1e400 > 1
'a-b'|title, 'a_b'|title, '<x'|title, 'ab\ncd'|title
'a,b;c'.split(',')[1].split(';')|last, 'k: v'.split(': ')|list, 'x'.split('x')
people|map(attribute='age')|sum, people|map(attribute='age')|max, people|max(attribute='age'), people|min(attribute='age')
{'b': 2, 'a': 1}|dictsort|map('first')|join, {'b': 2, 'a': 1}.items()|sort|list, [('a', 2), ('a', 1)]|sort
'é'|tojson, '\u007f'|tojson(ensure_ascii=true), '\ud83d'|length
lines|trim|replace('\n', ' '), lines.strip().split('\n')|length, '\u3000x\u00a0'|trim, '\x1cx'.strip()
'a' < 1
1 + 'a'
'a' + 1
missing + 1
missing.x
missing.x.y
d.zzz.y
l[9].x
nothing.x
nothing.x.y
missing()
s()
1 / 0
1 // 0
5 % 0
[1] + (1,)
-s
{[1]: 2}
{'a': 1} < {'a': 2}
n|nofilter
n is notest
n|length
none|length
missing|tojson
'x'.join([1])
s.split('')
l|sort(attribute='x')|list
[1, 'a']|sort
5|items|list
for
1 +
(1
[1, 2
{'a' 1}
'abc
a b
n is
n |
"a" "b
x ! y
$
)
n[
n.
1 not 2
f(x=1, 2)
'%d' % 'x'
'%s %s' % 'x'
'{}'.format()
range()
range(1, 2, 0)
namespace(1)
missing < 1
none < 1
[missing.x]|length
raise_exception('boom ' ~ n)
dict(1)
'abc'.index('z')
'a' is divisibleby 2
[1, 2]|round
'x'|abs
l.foo()
d.foo()
d.pop('a')
l.append(1)
loop
(1, 2)|join(attribute='x') 
'a'|replace('b')
missing|int
not
'''.strip('\n').replace("'a\\\nb'", "'a\\<NL>b'").split('\n')

STATEMENTS = [
    # white space
    'a\n{% if true %}\nb\n{% endif %}\nc\n', '  {% if true %}  \n x {% endif %} \n', 'a {{- 1 -}} b',
    'a\n  {%- if true -%}\n  b\n  {%- endif %}\nc', '  {%+ if true %}x{% endif +%}\ny', 'a\n\n', 'a\r\nb\rc\n',
    'x {# c #} y', '{# c #}\n z', '  {#- c -#}  y', '{#-#}x', '{#\nmulti\n#}\nline', '  {# c +#}\nx',
    '{% raw %}{{ x }} {% if %}{% endraw %}!', 'a {%- raw -%} b {%- endraw -%} c', '{% raw %}\n x\n{% endraw %}\ny',
    '  {{ 1 }}\n  {{ 2 }}\n', '{{ 1 }}\n{{ 2 }}\n', '\t{% set x = 1 %}\t{{ x }}', 'a{% if true %} {% endif %}b',
    '{% if true %}\n\n  a\n{% endif %}\n\n', 'a  {% if true -%}  \n  b{% endif %}', '{{ "}}" }}{{ "%}" }}',
    "{{ {'a': {'b': 1}}['a']['b'] }}", '{{ {"a": 1}}}', '{ { } } {% if true %}{ %}{% endif %}', 'é{{ "ü" }}ñ',
    '{{-1}}', '{{ -1 }}', '{{- -1 -}}', '{%if true%}x{%endif%}', '{%- if true -%} x {%- endif -%}', '\u3000{%- if true %}x{% endif %}',
    # if
    '{% if n > 5 %}a{% elif n > 3 %}b{% else %}c{% endif %}', '{% if n > 9 %}a{% elif n > 3 %}b{% else %}c{% endif %}',
    '{% if n > 9 %}a{% elif n > 8 %}b{% else %}c{% endif %}', '{% if missing %}a{% endif %}', '{% if l and d %}a{% endif %}',
    # for
    '{% for x in l %}{{ loop.index }}:{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}',
    '{% for x in l %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}',
    '{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}',
    '{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}',
    '{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}', '{% for k in d %}{{ k }}{% endfor %}', '{% for c in cjk %}{{ c }}-{% endfor %}',
    '{% for x in [] %}a{% else %}empty{% endfor %}', '{% for x in l %}a{% else %}empty{% endfor %}',
    '{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}', '{% for x in l if x > 9 %}a{% else %}none{% endfor %}',
    '{% for x in missing %}a{% endfor %}b', '{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}',
    '{% for a, b in [[1, 2], [3, 4]] %}{{ a + b }} {% endfor %}', '{% for i in range(3) %}{% for j in range(i) %}{{ i }}{{ j }}{{ loop.depth }} {% endfor %}{% endfor %}',
    '{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}', '{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}',
    '{% for i in range(3) %}{% for j in range(5) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}',
    '{% for x in l %}{{ loop.cycle("a", "b") }}{% endfor %}', '{% for x in [1, 1, 2] %}{{ loop.changed(x) }} {% endfor %}',
    '{% for x in 1, 2 %}{{ x }}{% endfor %}', '{% for x in l|sort %}{{ x }}{% endfor %}', '{% for x in l if x is odd %}{{ x }}{% endfor %}',
    '{% for m in people %}{% if loop.first %}F{% endif %}{{ m.name }}{{ m["age"] }}{% endfor %}', '{% for x in l[1:] %}{{ x }}{% endfor %}',
    '{% for x in l -%}\n  {{ x }}\n{%- endfor %}', '{% for x in l %}\n  {{ x }}\n{% endfor %}\n', '{% for x in none %}{% endfor %}',
    '{% for x in 5 %}{% endfor %}', '{% for a, b in [1] %}{% endfor %}', '{% for a, b in [[1]] %}{% endfor %}', '{% for a, b in [[1, 2, 3]] %}{% endfor %}',
    # scopes
    '{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}', '{% for i in l %}{{ y is defined }}{% set y = 1 %}{% endfor %}{{ y is defined }}',
    '{% set ns = namespace(c=0) %}{% for i in l %}{% set ns.c = ns.c + i %}{% endfor %}{{ ns.c }}', '{% if true %}{% set z = 5 %}{% endif %}{{ z }}',
    '{% set ns = namespace() %}{{ ns.x is defined }}{% set ns.x = [1] %}{{ ns.x }}{% set ns.x = ns.x + [2] %}{{ ns.x }}', '{% for x in l %}{% endfor %}{{ x is defined }}',
    '{% set n = n + 1 %}{{ n }}', '{% set a, b = 1, 2 %}{{ a }}{{ b }}', '{% set (a, b) = [1, 2] %}{{ b }}', '{% set x = 1, 2 %}{{ x }}', '{% set x %}a{{ n }}b{% endset %}{{ x }}{{ x|length }}',
    '{% set x | upper | replace("A", "4") %}abc{% endset %}{{ x }}', '{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}', '{% with %}{% set q2 = 1 %}{% endwith %}{{ q2 is defined }}',
    '{% set s.x = 1 %}', '{% set ns = namespace(a=namespace(b=1)) %}{{ ns.a.b }}', '{% set d2 = dict(d, z=9) %}{{ d2 }}{{ d }}',
    '{% set loop_messages = people[1:] %}{% for m in loop_messages %}{{ m.name }}{% endfor %}', '{% filter upper %}abc{{ s }}{% endfilter %}', '{% filter replace("a", "b") | title %}aaa{% endfilter %}',
    '{% set x = 1 %}{% set y %}{% set x = 2 %}{{ x }}{% endset %}{{ x }}{{ y }}', '{% generation %}abc {{ n }}{% endgeneration %}', '{% generation %}\n  a\n  {% endgeneration %}\nb',
    # macros
    '{% macro m(a, b=2) %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}', '{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}',
    '{% macro m(a, b=a ~ "!") %}{{ b }}{% endmacro %}{{ m("x") }}', '{% macro m() %}{{ n }}{{ loop is defined }}{% endmacro %}{% for x in l %}{{ m() }}{% endfor %}',
    '{% macro m() %}{{ late }}{% endmacro %}{% set late = "L" %}{{ m() }}', '{% macro m(x) %}{{ caller(x) }}{% endmacro %}{% call(y) m(5) %}<{{ y }}>{% endcall %}', '{% macro m() %}({{ caller() }}){% endmacro %}{% call m() %}in{{ n }}{% endcall %}',
    '{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, z=4) }}', '{% macro m(a) %}{{ a }}{% endmacro %}{{ m(*[1]) }}{{ m(**{"a": 2}) }}', '{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}',
    '{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}', '{% macro m(a) -%}\n  {{ a }}\n{%- endmacro %}|{{ m(1) }}|', '{% macro m(a) %}{{ a is defined }}{{ a|default("no") }}{% endmacro %}{{ m() }}', '{% macro m() %}x{% endmacro %}{{ m()|upper }}{{ (m() ~ m())|length }}',
    '{%- macro json(x) -%}{%- if x is mapping -%}{ {%- for k, v in x.items() %}{{ k }}:{{ json(v) }};{% endfor -%} }{%- elif x is sequence and x is not string -%}[{% for v in x %}{{ json(v) }},{% endfor %}]{%- else -%}{{ x }}{%- endif -%}{%- endmacro -%}{{ json(deep) }}{{ json(nested) }}',
    '{% macro m(x) %}{% set x = x + 1 %}{{ x }}{% endmacro %}{% set x = 10 %}{{ m(1) }}{{ x }}', '{% set c = cycler("a", "b") %}{{ c.next() }}{{ c.next() }}{{ c.next() }}', '{% set j = joiner(", ") %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}',
    '{% macro outer() %}{% macro inner(a) %}i{{ a }}{% endmacro %}{{ inner(1) }}{% endmacro %}{{ outer() }}', '{% for x in l %}{% macro mm() %}{{ x }}{% endmacro %}{{ mm() }}{% endfor %}',
    # idioms of chat templates
    '{%- set date = strftime_now("%d %b %Y") if strftime_now is defined else "never" %}{{ date }}',
    '{%- if not date_string is defined %}{%- set date_string = "x" %}{%- endif %}{{ date_string }}',
    '{{- "Tools: " + words | reject("equalto", "b") | join(", ") + "\n\n"}}|',
    '{%- for p in people[::-1] %}{%- set index = (people|length - 1) - loop.index0 %}{{ index }}{{ p.name }} {% endfor %}',
    '{%- if yes and s.startswith("H") and not(s.startswith("<t>") and s.endswith("</t>")) %}ok{% endif %}',
    '{{ "<think>a</think>\n\nb".split("</think>")[-1].lstrip("\n") }}{{ "<think>a</think>b".split("</think>")[0].rstrip("\n").split("<think>")[-1] }}',
    '{%- for key, val in d.items() if key != "b" %}{{ key }}={{ val|tojson }}{% if not loop.last %}, {% endif %}{%- endfor %}',
    '{{ \'{"\' + s + \'": \' + d|tojson + "}" }}', '{{ people | selectattr("name", "equalto", "bob") | list | last }}',
    '{%- macro typ(spec) %}{%- set map = {"string": "str", "integer": "int"} %}{%- if map[spec.type] is defined %}{{- map[spec.type] }}{%- elif spec.type == "array" %}{{- "list[" + typ(spec["items"]) + "]" }}{%- elif spec.type is iterable and spec.type is not string %}{{ spec.type | join(" | ") }}{%- else %}{{- "Any" }}{%- endif %}{%- endmacro %}{{ typ({"type": "array", "items": {"type": "string"}}) }}{{ typ({"type": ["a", "b"]}) }}{{ typ({}) }}',
    '{% if people[0]["tags"] is string %}s{% else %}{% for t in people[0]["tags"] %}{{ t }}{% endfor %}{% endif %}', '{{ (s if yes else t)|trim ~ (", " if no) }}',
    '{%- set ns = namespace(found=false, text="") -%}{%- for p in people -%}{%- if p.age == 5 and not ns.found -%}{%- set ns.found = true -%}{%- set ns.text = ns.text ~ p.name|upper -%}{%- endif -%}{%- endfor -%}{{ ns.found }}{{ ns.text }}',
    "{{ 'a' if l[0]==3 else 'b' }}{{ l[-1:]|first }}{{ (l|last) == 2 and l|length>2 }}", '{%- for m in people -%}\n{{ loop.index0 % 2 == 0 and "even" or "odd" }}\n{%- endfor -%}',
    '{% for p in people %}{% if p.tags is defined and p.tags is not none and p.tags|length > 0 %}{{ p.tags[0] }}{% endif %}{% endfor %}', '{{ d["a"][1] if "a" in d and d["a"] is sequence }}{{ d.get("q", {}).get("r", "none") }}',
    "{%- for p in people %}\n    {%- if loop.first %}\n        {{- '<first>' }}\n    {%- endif %}\n    {{- p.name + '\\n' }}\n{%- endfor %}\n",
    "{{ '<|im_start|>' ~ 'user\n' }}{% if yes %}{{ '<|x|>' }}{% endif %}", '{% set x = [] %}{% for w in words %}{% set x = x + [w] %}{% endfor %}{{ x }}', '{% set _ = d.update({"a": 1}) %}', '{{ l.append(1) or "" }}',
    "{% if 'name' not in people[0] or people[0]['name'] == '' %}none{% else %}{{ people[0]['name'] }}{% endif %}", '{{ "%s: %d" | format(s, n) }}{{ "{0:>5}".format(n) if no }}',
    # errors
    '{% if %}a{% endif %}', '{% if true %}a', '{% endif %}', '{% for x %}{% endfor %}', '{% unknown %}', '{{ 1', '{% if true', '{# c', '{% raw %}x', '{% set %}', '{% set 1 = 2 %}', '{{ }}', '{% for in l %}{% endfor %}',
    '{% if true %}{% endfor %}', '{% break %}', '{% macro m(a=1, b) %}{% endmacro %}', '{% else %}', '{% set x = %}', '{% macro %}{% endmacro %}', '{% if true }}a{% endif %}', '{{ 1 %}', '{% for x in l %}{% if x %}{% endfor %}{% endif %}',
    'a\nb\n{{ missing.x }}', '{% include "x" %}', '{{ raise_exception("Only user and assistant roles are supported!") }}', '{% call n %}{% endcall %}',
]

rows = []
for e in EXPRESSIONS:
    e = e.replace('<NL>', '\n')
    source = '{{ ' + e + ' }}'
    if ',' in e and 'error' not in render(source, VARS):  # one line of the table holds several: print each
        source = '{{ [' + e + '] }}{% for x in [' + e + '] %}|{{ x }}{% endfor %}'
        if 'error' in render(source, VARS):
            source = '{{ ' + e + ' }}'
    rows.append(dict(source=source, **render(source, VARS)))
for source in STATEMENTS:
    rows.append(dict(source=source, **render(source, VARS)))
json.dump(dict(now=NOW, vars=VARS, rows=rows), open(os.path.join(out, 'constructs.json'), 'w'),
          ensure_ascii=True, indent=0)
print(len(rows), 'constructs,', sum('error' in r for r in rows), 'errors')
