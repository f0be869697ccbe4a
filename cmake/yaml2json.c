/* yaml2json FROM TO: a YAML document as compact JSON, for the build. Keys are texts, each at most
 * once; plain scalars are read as YAML 1.2's core schema has them. What YAML 1.1 read otherwise
 * (yes, no, on, off) and what is empty by a slip of the pen must be quoted. */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define MAX_DEPTH 64

static const char *path;

static json_t *refuse(const yaml_node_t *n, const char *why)
{
    fprintf(stderr, "%s:%zu:%zu: %s\n", path, n->start_mark.line + 1, n->start_mark.column + 1,
            why);
    return NULL;
}

static json_t *plain(const yaml_node_t *n, const char *s)
{
    static const char *const old[] = {"yes", "no", "on", "off", "~", ""};
    char *end;
    if (strcmp(s, "null") == 0) return json_null();
    if (strcmp(s, "true") == 0) return json_true();
    if (strcmp(s, "false") == 0) return json_false();
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (strcmp(s, old[i]) == 0) return refuse(n, "needs quotes, or null, true, false");
    if (isdigit((unsigned char)*s) || (*s == '-' && isdigit((unsigned char)s[1]))) {
        errno = 0;
        long long i = strtoll(s, &end, 10);
        if (!*end) return errno ? refuse(n, "a number past 64 bits") : json_integer(i);
        double d = strtod(s, &end);
        if (!*end && !strpbrk(s, "xX")) return json_real(d);
    }
    return json_string(s);
}

static json_t *value(yaml_document_t *d, int index, int depth);

static json_t *mapping(yaml_document_t *d, yaml_node_t *n, int depth)
{
    json_t *out = json_object();
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        yaml_node_t *key = yaml_document_get_node(d, p->key);
        json_t *k = value(d, p->key, depth), *v = k ? value(d, p->value, depth) : NULL;
        const char *name = json_string_value(k);
        if (k && !name)
            refuse(key, "a key that is no text: it needs quotes");
        else if (name && json_object_get(out, name))
            refuse(key, "the key is there twice");
        else if (v && json_object_set(out, name, v) == 0)
            name = NULL; /* done */
        bool failed = !k || name || !v;
        json_decref(k);
        json_decref(v);
        if (failed) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

static json_t *value(yaml_document_t *d, int index, int depth)
{
    yaml_node_t *n = yaml_document_get_node(d, index);
    if (depth == MAX_DEPTH) return refuse(n, "nested too deeply");
    if (n->type == YAML_MAPPING_NODE) return mapping(d, n, depth + 1);
    if (n->type == YAML_SCALAR_NODE) {
        const char *s = (const char *)n->data.scalar.value;
        return n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? plain(n, s) : json_string(s);
    }
    json_t *out = json_array();
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++)
        if (json_array_append_new(out, value(d, *i, depth + 1)) != 0) {
            json_decref(out);
            return NULL;
        }
    return out;
}

/* The document's only value; NULL after saying why not. */
static json_t *load(FILE *in)
{
    yaml_parser_t parser;
    yaml_document_t doc;
    json_t *out = NULL;
    yaml_parser_initialize(&parser);
    yaml_parser_set_input_file(&parser, in);
    if (!yaml_parser_load(&parser, &doc)) {
        fprintf(stderr, "%s:%zu:%zu: %s\n", path, parser.problem_mark.line + 1,
                parser.problem_mark.column + 1, parser.problem ? parser.problem : "not YAML");
    } else {
        if (yaml_document_get_root_node(&doc))
            out = value(&doc, 1, 0); /* the root is the first node */
        else
            fprintf(stderr, "%s: empty\n", path);
        yaml_document_delete(&doc);
    }
    yaml_parser_delete(&parser);
    return out;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: yaml2json FROM TO\n");
        return 2;
    }
    path = argv[1];
    FILE *in = fopen(path, "rb");
    if (!in) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    json_t *out = load(in);
    fclose(in);
    if (!out) return 1;
    int rc = json_dump_file(out, argv[2], JSON_COMPACT);
    json_decref(out);
    if (rc != 0) fprintf(stderr, "%s: could not be written\n", argv[2]);
    return rc != 0;
}
