/* routes.c: every route of every dialect. */
#include "http.h"

extern const an_route image_routes[], completion_routes[], chat_routes[], job_routes[],
    link_routes[], status_routes[], metrics_routes[], sdapi_routes[], latents_routes[],
    tokenize_routes[], llama_routes[], contract_routes[], live_routes[], page_routes[];

const an_route *const an_routes[] = {
    completion_routes, chat_routes,     image_routes, job_routes,     link_routes,
    status_routes,     metrics_routes,  sdapi_routes, latents_routes, tokenize_routes,
    llama_routes,      contract_routes, live_routes,  page_routes,    NULL};
