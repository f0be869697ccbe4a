/* routes.c: every route of every dialect. */
#include "http.h"

extern const an_route image_routes[], job_routes[], link_routes[], status_routes[], sdapi_routes[],
    latents_routes[];

const an_route *const an_routes[] = {image_routes, job_routes,     link_routes, status_routes,
                                     sdapi_routes, latents_routes, NULL};
