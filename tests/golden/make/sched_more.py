# What sched.py leaves out: step() arguments, thresholding, Runge-Kutta PNDM, flow sigmas, dynamic shifting, rarer settings, and
# Class.from_config(another class's file). Cases that f32 itself does not decide (f32 and f64 runs differ) are left out.
# usage: sched_more.py OUT
import torch, json, sys, itertools, inspect, warnings, logging
warnings.filterwarnings('ignore'); logging.disable(logging.WARNING)
torch.set_grad_enabled(False); torch.set_num_threads(1)
import diffusers
B=dict(beta_start=.00085,beta_end=.012,beta_schedule='scaled_linear',num_train_timesteps=1000)
CALL=('eta','mu'); WATCH=[0,7,31,59]; out=[]
to=torch.Tensor.to
def make(cls,cfg,n,base):
    c={k:v for k,v in cfg.items() if k not in CALL}
    if base is None: s=getattr(diffusers,cls).from_config({**B,**c})
    else: s=getattr(diffusers,cls).from_config(getattr(diffusers,base['_class_name']).from_config(base).config,**c)
    s.set_timesteps(n,**({'mu':cfg['mu']} if 'mu' in cfg else {})); return s
def walk(s,cfg,n,f64):
    if f64:  # tables and sample in f64; diffusers' casts back to f32 are turned off
        for a in ('sigmas','alphas_cumprod','sigmas_interpol','sigmas_up','sigmas_down','final_alpha_cumprod','one'):
            if isinstance(getattr(s,a,None),torch.Tensor): setattr(s,a,getattr(s,a).double())
        torch.Tensor.to=lambda self,*a,**k: self if a and a[0] is torch.float32 and self.dtype==torch.float64 else to(self,*a,**k)
    mod=sys.modules[type(s).__module__]
    mod.randn_tensor=lambda shape,generator=None,device=None,dtype=None: torch.randn(shape,generator=generator).to(torch.float64 if f64 else torch.float32)
    try:
        g=torch.Generator().manual_seed(n); x=torch.randn(1,4,3,5,generator=g)
        if f64: x=x.double()
        x=x*float(getattr(s,'init_noise_sigma',1.0)); names=inspect.signature(s.step).parameters; tr=[]
        kw={k:v for k,v in dict(generator=g,eta=cfg.get('eta')).items() if k in names and v is not None}
        if hasattr(s,'set_begin_index'): s.set_begin_index(0)
        for t in s.timesteps:
            xi=s.scale_model_input(x,t) if hasattr(s,'scale_model_input') else x; tt=float(t); m=torch.sin(xi*0.7+tt/300)*0.8+0.1*torch.cos(xi*1.3-tt/500)
            x=s.step(m,t,x,**kw).prev_sample; tr.append([float(v) for v in x.flatten()[WATCH]])
        return tr,[float(v) for v in x.flatten()]
    finally: torch.Tensor.to=to
def run(cls,cfg,n,base=None):
    d=dict(sampler=cls,config=cfg,steps=n)
    if base is not None: d['base']=base
    try:
        s=make(cls,cfg,n,base)
        d.update(seed=n,init_noise_sigma=float(getattr(s,'init_noise_sigma',1.0)),timesteps=[float(t) for t in s.timesteps])
        if getattr(s,'sigmas',None) is not None: d['sigmas']=[float(v) for v in s.sigmas]
        tr,final=walk(s,cfg,n,False); tr64,final64=walk(make(cls,cfg,n,base),cfg,n,True)
    except Exception as e:
        out.append(dict(sampler=cls,config=cfg,steps=n,error=repr(e)[:120],**({'base':base} if base is not None else {}))); return
    pairs=[(a,b,max(1,*map(abs,q))) for p,q in zip(tr+[final],tr64+[final64]) for a,b in zip(p,q)]
    if any(not abs(a-b)<=3e-6*m for a,b,m in pairs): return
    d['trajectory_0_7_31_59']=tr; out.append(d)
def add(cls,steps,**opts):
    for combo in itertools.product(*opts.values()):
        for n in steps: run(cls,{k:v for k,v in zip(opts,combo) if v is not None},n)
SP=['linspace','leading','trailing']; EV=['epsilon','v_prediction','sample']; FLOW=dict(use_flow_sigmas=[True],prediction_type=['flow_prediction'])
add('PNDMScheduler',(3,4,5,10),skip_prk_steps=[False],timestep_spacing=SP,prediction_type=EV[:2]); add('PNDMScheduler',(1,),skip_prk_steps=[True])
add('DDIMScheduler',(4,),eta=[.3,1.0],timestep_spacing=SP,prediction_type=EV); add('DDIMScheduler',(4,),eta=[0.0,.5],clip_sample=[True],prediction_type=EV)
for c in ('DDIMScheduler','DDPMScheduler','DPMSolverMultistepScheduler','UniPCMultistepScheduler','DPMSolverSinglestepScheduler'):
    add(c,(5,),thresholding=[True],sample_max_value=[1.0,3.0],dynamic_thresholding_ratio=[.9])
add('DDPMScheduler',(5,),beta_schedule=['laplace','sigmoid','linear','squaredcos_cap_v2'],variance_type=['fixed_small_log','fixed_large'],clip_sample=[False]); add('DDPMScheduler',(1001,))
add('HeunDiscreteScheduler',(5,),clip_sample=[True],prediction_type=EV,timestep_spacing=SP); add('HeunDiscreteScheduler',(10,),beta_schedule=['exp'])
S='DPMSolverSinglestepScheduler'
add(S,(5,6),algorithm_type=['dpmsolver++','sde-dpmsolver++'],solver_type=['midpoint','heun'],solver_order=[1,2,3],lower_order_final=[None,True],final_sigmas_type=['zero','sigma_min'])
add(S,(6,),algorithm_type=['dpmsolver'],solver_type=['midpoint','heun'],solver_order=[2,3],final_sigmas_type=['sigma_min'],prediction_type=EV)
for k in ('use_exponential_sigmas','use_beta_sigmas'): add(S,(5,),**{k:[True]},solver_order=[2,3])
add(S,(5,),flow_shift=[1.0,3.0],**FLOW); add(S,(5,),lambda_min_clipped=[-5.1],beta_schedule=['squaredcos_cap_v2'])
M='DPMSolverMultistepScheduler'
add(M,(5,15),flow_shift=[3.0],solver_order=[2,3],**FLOW); add(M,(5,),use_dynamic_shifting=[True],mu=[.7],**FLOW)
add(M,(5,),lambda_min_clipped=[-5.1],beta_schedule=['squaredcos_cap_v2'],use_karras_sigmas=[None,True],timestep_spacing=SP)
add(M,(5,15),algorithm_type=['sde-dpmsolver','dpmsolver'],final_sigmas_type=['sigma_min'],solver_order=[2,3],solver_type=['midpoint','heun'],prediction_type=EV[1:])
add(M,(6,),algorithm_type=['sde-dpmsolver++','dpmsolver++'],solver_type=['heun','logrho','bh2'],euler_at_final=[None,True],final_sigmas_type=['sigma_min']); add(M,(5,),algorithm_type=['dpmsolver'])
add(M,(61,),timestep_spacing=['trailing']); add(M,(5,),sigma_min=[.1],sigma_max=[5.],use_karras_sigmas=[True]); add(M,(5,),use_karras_sigmas=[True],use_beta_sigmas=[True])
U='UniPCMultistepScheduler'
add(U,(5,),predict_x0=[False],final_sigmas_type=['sigma_min','zero'],solver_order=[2,3],solver_type=['bh1','bh2'],prediction_type=EV); add(U,(6,),disable_corrector=[[0],[0,1,2],[3]])
add(U,(5,),flow_shift=[3.0],use_karras_sigmas=[None,True],final_sigmas_type=['zero','sigma_min'],**FLOW); add(U,(5,),use_dynamic_shifting=[True],mu=[.7],time_shift_type=['exponential','linear'],shift_terminal=[None,.02],**FLOW)
for k in ('use_exponential_sigmas','use_beta_sigmas'): add(U,(5,),**{k:[True]},final_sigmas_type=['zero','sigma_min'])
add(U,(5,),lower_order_final=[False],final_sigmas_type=['zero','sigma_min'],solver_order=[2,3])
D='DEISMultistepScheduler'
for k in ('use_exponential_sigmas','use_beta_sigmas'): add(D,(5,),**{k:[True]})
add(D,(5,),flow_shift=[3.0],solver_order=[2,3],**FLOW); add(D,(15,),prediction_type=EV,lower_order_final=[True,False],algorithm_type=['deis','sde-dpmsolver++'])
add('LCMScheduler',(4,51),prediction_type=EV,clip_sample=[True,False],original_inference_steps=[50,100],timestep_scaling=[10.0,.01]); add('TCDScheduler',(4,),eta=[0.0,.5,1.0],prediction_type=EV)
F='FlowMatchEulerDiscreteScheduler'
add(F,(5,),use_dynamic_shifting=[True],mu=[.5,1.15],time_shift_type=['exponential','linear'],shift_terminal=[None,.1]); add(F,(5,),use_dynamic_shifting=[True])
for k in ('use_exponential_sigmas','use_beta_sigmas','invert_sigmas','stochastic_sampling'): add(F,(5,),shift=[3.0],**{k:[True]})
E='EulerDiscreteScheduler'
add(E,(5,),prediction_type=['sample','original_sample']); add(E,(5,),prediction_type=['v_prediction'],timestep_type=['continuous'],use_karras_sigmas=[True],sigma_min=[.002],sigma_max=[None,700.]); add(E,(5,),interpolation_type=['log_linear'])
for c in (E,'LMSDiscreteScheduler','KDPM2DiscreteScheduler','DDIMScheduler','PNDMScheduler','DDPMScheduler'):
    add(c,(61,),timestep_spacing=['trailing']); add(c,(6,),num_train_timesteps=[500]); add(c,(5,),prediction_type=['sample'])
for k in ('use_karras_sigmas','use_beta_sigmas'): add('LMSDiscreteScheduler',(5,),sigma_min=[.1],sigma_max=[5.],**{k:[True]})
# Class.from_config(the model's file)
FILES=[dict(_class_name='PNDMScheduler',skip_prk_steps=True,clip_sample=False,set_alpha_to_one=False,steps_offset=1,**B),
    dict(_class_name='DDIMScheduler',prediction_type='v_prediction',clip_sample=False,set_alpha_to_one=False,steps_offset=1,rescale_betas_zero_snr=True,timestep_spacing='trailing',**B),
    dict(_class_name='EulerDiscreteScheduler',interpolation_type='linear',timestep_spacing='leading',steps_offset=1,use_karras_sigmas=False,sigma_max=9.0,**B),
    dict(_class_name='UniPCMultistepScheduler',solver_order=3,solver_type='bh1',use_karras_sigmas=True,final_sigmas_type='sigma_min',**B),
    dict(_class_name='DEISMultistepScheduler',algorithm_type='deis',solver_type='logrho',final_sigmas_type='sigma_min',**B),
    dict(_class_name='DPMSolverMultistepScheduler',algorithm_type='sde-dpmsolver++',solver_type='heun',lambda_min_clipped=-5.1,use_exponential_sigmas=True,**B)]
ALL=['DDPM','DDIM','PNDM','LMSDiscrete','EulerDiscrete','EulerAncestralDiscrete','HeunDiscrete','KDPM2Discrete','KDPM2AncestralDiscrete','DPMSolverMultistep','DPMSolverSinglestep','UniPCMultistep','DEISMultistep','LCM','TCD']
for f in FILES:
    for c in ALL: run(c+'Scheduler',{},6,f)
for f in FILES[:3]: run(M,dict(use_karras_sigmas=True),6,f); run(E,dict(timestep_spacing='trailing'),6,f)
print(len(out),'cases',sum('error' in o for o in out),'errors')
def q(v): return float(f'{v:.7g}') if isinstance(v,float) else [q(a) for a in v] if isinstance(v,list) else v
with open(sys.argv[1],'w') as f:
    for o in out: f.write(json.dumps({k:(v if k in ('config','base') else q(v)) for k,v in o.items()})+'\n')
