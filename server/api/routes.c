/* routes.c: every route of every dialect. */
#include "http.h"

extern const an_route image_routes[], completion_routes[], chat_routes[], job_routes[],
    link_routes[], status_routes[], sdapi_routes[], latents_routes[], tokenize_routes[],
    llama_routes[];

const an_route *const an_routes[] = {completion_routes, chat_routes,   image_routes, job_routes,
                                     link_routes,       status_routes, sdapi_routes, latents_routes,
                                     tokenize_routes,   llama_routes,  NULL};
